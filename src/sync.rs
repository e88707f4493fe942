//! The locks, atomics and threads of log and journal.
//!
//! They are parking_lot's and the standard library's. With the feature
//! `shuttle` they are those of a scheduler that decides at each of them who
//! runs next, so that models try orders in which the real threads seldom meet
//! (`scripts/shuttle`). A wait never times out there: whoever must be woken
//! and isn't is found.

#[cfg(not(feature = "shuttle"))]
pub use {
    parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard},
    std::sync::atomic,
    std::thread,
};

#[cfg(feature = "shuttle")]
pub use {
    scheduled::{Condvar, Mutex, RwLock},
    shuttle::sync::{RwLockReadGuard, RwLockWriteGuard, atomic},
    shuttle::thread,
};

#[cfg(all(test, feature = "shuttle"))]
pub mod explore;

/// parking_lot's way of calling what shuttle has: no poisoning, and guards
/// that stay where they are during a wait.
#[cfg(feature = "shuttle")]
mod scheduled {
    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    use shuttle::sync::{self, RwLockReadGuard, RwLockWriteGuard};

    const POISONED: &str = "a thread has panicked";

    #[derive(Default)]
    pub struct Mutex<T>(sync::Mutex<T>);

    /// Empty only while a condition variable has it.
    pub struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Mutex(sync::Mutex::new(value))
        }
        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect(POISONED)))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().expect("not waiting")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("not waiting")
        }
    }

    #[derive(Default)]
    pub struct Condvar(sync::Condvar);

    impl Condvar {
        pub fn new() -> Self {
            Self::default()
        }
        pub fn notify_one(&self) {
            self.0.notify_one();
        }
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let inner = guard.0.take().expect("not waiting");
            guard.0 = Some(self.0.wait(inner).expect(POISONED));
        }
        /// However long.
        pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _most: Duration) {
            self.wait(guard);
        }
    }

    #[derive(Default)]
    pub struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub fn new(value: T) -> Self {
            RwLock(sync::RwLock::new(value))
        }
        pub fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().expect(POISONED)
        }
        pub fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().expect(POISONED)
        }
    }
}

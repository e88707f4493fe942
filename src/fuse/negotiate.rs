//! INIT: what the kernel is asked for.

use fuser::{InitFlags, KernelConfig};

/// The largest write in one request, if the journal takes that in one record;
/// fuser's default of 16 MiB would be one record of 16 MiB.
const MAX_WRITE: usize = 1 << 20;
/// Requests that the kernel may have under way without a program waiting:
/// read-ahead and the write-back of memory maps.
const MAX_BACKGROUND: u16 = 64;

/// What INIT is to negotiate, and what follows from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Negotiate {
    /// The kernel checks permissions, and ACLs with them.
    pub kernel_acls: bool,
    /// The longest write that is one record. A longer request would become
    /// several, and a kill between them would leave it half done.
    pub longest_write: usize,
    /// Requests are to come over io_uring.
    pub over_rings: bool,
}

impl Negotiate {
    /// Bytes of names or data that a request or an answer may have.
    pub fn longest_payload(&self) -> usize {
        MAX_WRITE
    }

    /// Asks for it; whether requests will come over io_uring. An older kernel
    /// has less; all of it is for speed or ACLs.
    pub fn with(self, config: &mut KernelConfig) -> bool {
        // Not WRITEBACK_CACHE: it hides the order of writes from us. Not
        // ATOMIC_O_TRUNC: OPEN comes before the kernel finds that it must fail
        // (ETXTBSY); without it, a SETATTR follows when it has succeeded. Not
        // AUTO_INVAL_DATA: nobody else changes the image. Not SETXATTR_EXT:
        // fuser 0.18 panics on it. Not NO_OPENDIR_SUPPORT, and no directory is
        // opened with CACHE_DIR: where several list a directory that changes,
        // Linux may take an answer from before the change into the cache that
        // it began after it.
        let mut wanted = InitFlags::FUSE_DONT_MASK // a default ACL takes the umask's place
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_HAS_IOCTL_DIR;
        if self.kernel_acls {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        if self.over_rings {
            wanted |= InitFlags::FUSE_OVER_IO_URING;
        }
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(MAX_WRITE.min(self.longest_write) as u32);
        let _ = config.set_max_background(MAX_BACKGROUND);
        (wanted & config.capabilities()).contains(InitFlags::FUSE_OVER_IO_URING)
    }
}

//! POSIX access control lists: on disk, on the wire, and what they mean.
//!
//! The disk has version 1, where only named users and groups carry an id; the
//! `system.posix_acl_*` attributes that programs see have version 2, where
//! every entry does.

use super::Corrupt;
use super::bytes::{le16, le32};

const DISK_VERSION: u32 = 1;
const WIRE_VERSION: u32 = 2;
/// The id of entries that name nobody, on the wire.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The file's owner.
    UserObj,
    /// This user.
    User(u32),
    /// The file's group.
    GroupObj,
    /// This group.
    Group(u32),
    /// The most that users, groups and the file's group get.
    Mask,
    /// Everybody else.
    Other,
}

impl Tag {
    fn from_parts(tag: u16, id: u32) -> Option<Self> {
        Some(match tag {
            0x01 => Tag::UserObj,
            0x02 => Tag::User(id),
            0x04 => Tag::GroupObj,
            0x08 => Tag::Group(id),
            0x10 => Tag::Mask,
            0x20 => Tag::Other,
            _ => return None,
        })
    }

    fn parts(self) -> (u16, Option<u32>) {
        match self {
            Tag::UserObj => (0x01, None),
            Tag::User(id) => (0x02, Some(id)),
            Tag::GroupObj => (0x04, None),
            Tag::Group(id) => (0x08, Some(id)),
            Tag::Mask => (0x10, None),
            Tag::Other => (0x20, None),
        }
    }

    /// Entries come in this order.
    fn rank(self) -> u8 {
        match self {
            Tag::UserObj => 0,
            Tag::User(_) => 1,
            Tag::GroupObj => 2,
            Tag::Group(_) => 3,
            Tag::Mask => 4,
            Tag::Other => 5,
        }
    }
}

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclEntry {
    /// For whom.
    pub tag: Tag,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
}

/// A valid list: owner, group and other are there once, in order, and a mask
/// if anybody is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<AclEntry>,
}

impl Acl {
    fn new(entries: Vec<AclEntry>) -> Option<Self> {
        let count = |rank| {
            entries
                .iter()
                .filter(|entry| entry.tag.rank() == rank)
                .count()
        };
        let ordered = entries.is_sorted_by_key(|entry| entry.tag.rank());
        let named = count(1) + count(3) > 0;
        let complete =
            [0, 2, 5].map(count) == [1, 1, 1] && (count(4) == 1 || count(4) == 0 && !named);
        let sane = entries.iter().all(|entry| entry.perm <= 7);
        (ordered && complete && sane).then_some(Acl { entries })
    }

    /// As an attribute's value on disk has it.
    pub fn from_disk(raw: &[u8]) -> Result<Self, Corrupt> {
        let wrong = |field, value: u32| Corrupt::Field {
            what: "access control list".into(),
            field,
            value: value.into(),
        };
        if raw.len() < 4 || le32(raw, 0) != DISK_VERSION {
            return Err(wrong(
                "a_version",
                raw.first().map_or(0, |&byte| byte.into()),
            ));
        }
        let mut rest = &raw[4..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let short = rest.len() < 4;
            let tag = if short { 0 } else { le16(rest, 0) };
            let len = if matches!(tag, 0x02 | 0x08) { 8 } else { 4 };
            if short || rest.len() < len {
                return Err(wrong("length", raw.len() as u32));
            }
            let id = if len == 8 { le32(rest, 4) } else { NOBODY };
            let tag = Tag::from_parts(tag, id).ok_or_else(|| wrong("e_tag", tag.into()))?;
            entries.push(AclEntry {
                tag,
                perm: le16(rest, 2),
            });
            rest = &rest[len..];
        }
        let count = entries.len() as u32;
        Acl::new(entries).ok_or_else(|| wrong("entries", count))
    }

    /// As an attribute's value on disk has it.
    pub fn to_disk(&self) -> Vec<u8> {
        let mut raw = DISK_VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let (tag, id) = entry.tag.parts();
            raw.extend(tag.to_le_bytes());
            raw.extend(entry.perm.to_le_bytes());
            raw.extend(id.map(u32::to_le_bytes).into_iter().flatten());
        }
        raw
    }

    /// As setxattr brings it. `Some(None)`: an empty list, which removes;
    /// `None`: nonsense.
    pub fn from_wire(raw: &[u8]) -> Option<Option<Self>> {
        if raw.len() < 4 || le32(raw, 0) != WIRE_VERSION || raw.len() % 8 != 4 {
            return None;
        }
        let entries: Option<Vec<AclEntry>> = raw[4..]
            .chunks_exact(8)
            .map(|raw| {
                Some(AclEntry {
                    tag: Tag::from_parts(le16(raw, 0), le32(raw, 4))?,
                    perm: le16(raw, 2),
                })
            })
            .collect();
        match entries? {
            none if none.is_empty() => Some(None),
            entries => Acl::new(entries).map(Some),
        }
    }

    /// As getxattr shows it.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut raw = WIRE_VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let (tag, id) = entry.tag.parts();
            raw.extend(tag.to_le_bytes());
            raw.extend(entry.perm.to_le_bytes());
            raw.extend(id.unwrap_or(NOBODY).to_le_bytes());
        }
        raw
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[AclEntry] {
        &self.entries
    }

    /// The permission bits that go with the list: owner, mask (or group), other.
    pub fn mode(&self) -> u16 {
        self.perm(0) << 6 | self.class() << 3 | self.perm(5)
    }

    /// Whether the permission bits say all that the list says.
    pub fn is_just_mode(&self) -> bool {
        self.entries.len() == 3
    }

    /// What chmod does to the list.
    pub fn set_mode(&mut self, mode: u16) {
        let class = if self.entry(4).is_some() { 4 } else { 2 };
        for (rank, perm) in [(0, mode >> 6), (class, mode >> 3), (5, mode)] {
            if let Some(entry) = self.entry(rank) {
                entry.perm = perm & 7;
            }
        }
    }

    /// A new file's list and permission bits, from its directory's default
    /// list (`self`) and the mode that its creator asked for.
    pub fn inherited(&self, mode: u16) -> (Self, u16) {
        let mut acl = self.clone();
        let perm = self.mode() & mode & 0o777;
        acl.set_mode(perm);
        (acl, mode & !0o777 | perm)
    }

    /// Whether the list lets this user do all of `want`. (The owner too, whom
    /// the permission bits answer the same.)
    pub fn permits(
        &self,
        want: u16,
        user: u32,
        is_owner: bool,
        in_group: &dyn Fn(Option<u32>) -> bool,
    ) -> bool {
        let mask = self
            .entries
            .iter()
            .find(|entry| entry.tag == Tag::Mask)
            .map_or(7, |entry| entry.perm);
        let mut in_some_group = false;
        for AclEntry { tag, perm } in &self.entries {
            match *tag {
                Tag::UserObj if is_owner => return perm & want == want,
                Tag::User(id) if id == user => return perm & mask & want == want,
                Tag::GroupObj | Tag::Group(_) => {
                    let id = if let Tag::Group(id) = *tag {
                        Some(id)
                    } else {
                        None
                    };
                    if in_group(id) {
                        in_some_group = true;
                        // One group that gives all of it suffices.
                        if perm & want == want {
                            return perm & mask & want == want;
                        }
                    }
                }
                Tag::Other => return !in_some_group && perm & want == want,
                _ => {}
            }
        }
        false
    }

    fn entry(&mut self, rank: u8) -> Option<&mut AclEntry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.tag.rank() == rank)
    }

    fn perm(&self, rank: u8) -> u16 {
        self.entries
            .iter()
            .find(|entry| entry.tag.rank() == rank)
            .map_or(0, |entry| entry.perm)
    }

    fn class(&self) -> u16 {
        let has_mask = self.entries.iter().any(|entry| entry.tag == Tag::Mask);
        self.perm(if has_mask { 4 } else { 2 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acl(entries: &[(Tag, u16)]) -> Option<Acl> {
        Acl::new(
            entries
                .iter()
                .map(|&(tag, perm)| AclEntry { tag, perm })
                .collect(),
        )
    }

    fn shared() -> Acl {
        use Tag::*;
        acl(&[
            (UserObj, 7),
            (User(1000), 6),
            (GroupObj, 5),
            (Group(50), 4),
            (Mask, 5),
            (Other, 0),
        ])
        .unwrap()
    }

    #[test]
    fn a_list_survives_both_forms() {
        assert_eq!(Acl::from_disk(&shared().to_disk()).unwrap(), shared());
        assert_eq!(
            Acl::from_wire(&shared().to_wire()).unwrap().unwrap(),
            shared()
        );
        assert_eq!(shared().to_disk().len(), 4 + 4 * 4 + 2 * 8);
        assert_eq!(Acl::from_wire(&[2, 0, 0, 0]), Some(None));
    }

    #[test]
    fn incomplete_or_unordered_lists_are_refused() {
        use Tag::*;
        assert!(acl(&[(UserObj, 7), (GroupObj, 5)]).is_none());
        assert!(acl(&[(UserObj, 7), (User(1), 7), (GroupObj, 5), (Other, 0)]).is_none());
        assert!(acl(&[(GroupObj, 5), (UserObj, 7), (Other, 0)]).is_none());
        assert!(acl(&[(UserObj, 8), (GroupObj, 5), (Other, 0)]).is_none());
        assert!(
            acl(&[(UserObj, 7), (GroupObj, 5), (Other, 0)]).is_some_and(|acl| acl.is_just_mode())
        );
    }

    #[test]
    fn the_mask_bounds_named_users_and_stands_for_the_group_in_the_mode() {
        assert_eq!(shared().mode(), 0o750);
        let nobody = |_| false;
        assert!(shared().permits(4, 1000, false, &nobody));
        assert!(!shared().permits(2, 1000, false, &nobody));
        assert!(shared().permits(4, 1, false, &|id| id == Some(50)));
        assert!(!shared().permits(1, 1, false, &|id| id == Some(50)));
        assert!(!shared().permits(4, 1, false, &nobody));
    }

    #[test]
    fn a_new_file_gets_no_more_than_its_creator_asked_for() {
        let (acl, mode) = shared().inherited(0o100_640);
        assert_eq!(mode, 0o100_640);
        assert_eq!(acl.mode(), 0o640);
        let (acl, mode) = shared().inherited(0o040_777);
        assert_eq!((acl.mode(), mode), (0o750, 0o040_750));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut raw in proptest::collection::vec(any::<u8>(), 0..80), version in 0_u8..3) {
            if raw.len() >= 4 {
                raw[..4].copy_from_slice(&[version, 0, 0, 0]);
            }
            let _ = Acl::from_disk(&raw);
            let _ = Acl::from_wire(&raw);
        }
    }
}

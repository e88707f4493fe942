use super::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Time { secs, nanos })
}

fn by() -> impl Strategy<Value = By> {
    any::<(u32, u32, u32)>().prop_map(|(uid, gid, pid)| By { uid, gid, pid })
}

fn inode() -> impl Strategy<Value = InodeNo> {
    any::<u32>().prop_map(InodeNo)
}

fn name() -> impl Strategy<Value = Name> {
    (inode(), vec(any::<u8>(), 0..40)).prop_map(|(parent, name)| Name { parent, name })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..100)
}

fn op() -> impl Strategy<Value = Op> {
    let named = || (by(), name(), inode(), time());
    prop_oneof![
        (named(), any::<(u16, u32, u32, u32)>(), bytes()).prop_map(
            |((by, at, inode, time), (mode, uid, gid, rdev), target)| Op::Create {
                by,
                at,
                inode,
                mode,
                uid,
                gid,
                rdev,
                target,
                time
            }
        ),
        named().prop_map(|(by, at, inode, time)| Op::Link {
            by,
            at,
            inode,
            time
        }),
        named().prop_map(|(by, at, inode, time)| Op::Unlink {
            by,
            at,
            inode,
            time
        }),
        named().prop_map(|(by, at, inode, time)| Op::Rmdir {
            by,
            at,
            inode,
            time
        }),
        (named(), name(), any::<u32>(), inode()).prop_map(
            |((by, from, inode, time), to, flags, replaced)| {
                Op::Rename {
                    by,
                    from,
                    to,
                    flags,
                    inode,
                    replaced,
                    time,
                }
            }
        ),
        (by(), inode(), any::<(u64, u64)>(), time()).prop_map(
            |(by, inode, (offset, len), time)| Op::Write {
                by,
                inode,
                offset,
                len,
                time
            }
        ),
        (
            by(),
            inode(),
            any::<(Option<u16>, Option<u32>, Option<u32>, Option<u64>)>(),
            of(time()),
            of(time()),
            time()
        )
            .prop_map(|(by, inode, (mode, uid, gid, size), atime, mtime, ctime)| {
                Op::SetAttr {
                    by,
                    inode,
                    mode,
                    uid,
                    gid,
                    size,
                    atime,
                    mtime,
                    ctime,
                }
            }),
        (by(), inode(), any::<(u32, u64, u64)>(), time()).prop_map(
            |(by, inode, (mode, offset, len), time)| {
                Op::Fallocate {
                    by,
                    inode,
                    mode,
                    offset,
                    len,
                    time,
                }
            }
        ),
        (by(), inode(), bytes(), bytes(), any::<u32>(), time()).prop_map(
            |(by, inode, name, value, flags, time)| {
                Op::SetXattr {
                    by,
                    inode,
                    name,
                    value,
                    flags,
                    time,
                }
            }
        ),
        (by(), inode(), any::<u32>(), time()).prop_map(|(by, inode, flags, time)| Op::SetFlags {
            by,
            inode,
            flags,
            time
        }),
        (by(), inode(), bytes(), time()).prop_map(|(by, inode, name, time)| Op::RemoveXattr {
            by,
            inode,
            name,
            time
        }),
        (inode(), time()).prop_map(|(inode, time)| Op::Atime { inode, time }),
        inode().prop_map(|inode| Op::Orphan { inode }),
        (bytes(), time()).prop_map(|(name, time)| Op::Mark { name, time }),
    ]
}

fn block() -> impl Strategy<Value = BlockNo> {
    any::<u64>().prop_map(BlockNo)
}

fn redo() -> impl Strategy<Value = Redo> {
    prop_oneof![
        block().prop_map(|block| Redo::Zeros { block }),
        (block(), bytes()).prop_map(|(block, bytes)| Redo::Image { block, bytes }),
        (block(), vec((any::<u16>(), bytes()), 0..5)).prop_map(|(block, ranges)| Redo::Edit {
            block,
            ranges: ranges.into_iter().collect()
        }),
        (block(), any::<(u32, u32)>()).prop_map(|(first, (count, from))| Redo::Put {
            first,
            count,
            from
        }),
        (block(), any::<(u16, u32, u32)>()).prop_map(|(block, (offset, from, len))| Redo::Patch {
            block,
            offset,
            from,
            len
        }),
        (block(), any::<u64>()).prop_map(|(first, count)| Redo::Free { first, count }),
    ]
}

fn base() -> impl Strategy<Value = Base> {
    let session =
        (any::<[u8; 16]>(), bytes(), bytes()).prop_map(|(guard, prior, guarded)| Session {
            guard,
            prior,
            guarded,
        });
    (
        session,
        any::<u64>(),
        bytes(),
        vec((block(), any::<u32>()), 0..4),
    )
        .prop_map(|(session, through, pinned, samples)| Base {
            session,
            through: Lsn(through),
            pinned,
            samples,
        })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        4 => (op(), vec((inode(), bytes()), 0..3), of(bytes()), vec(redo(), 0..6))
            .prop_map(|(op, paths, program, redo)| Record::Operation(Operation { op, paths, program, redo })),
        1 => base().prop_map(Record::Session),
        1 => base().prop_map(Record::Checkpoint),
        1 => any::<u64>().prop_map(|through| Record::Install(Lsn(through))),
        1 => (bytes(), bytes()).prop_map(|(fingerprint, restored)| Record::Clean(Clean { fingerprint, restored })),
    ]
}

proptest! {
    #[test]
    fn a_record_reads_back_as_it_was_written(record in record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn decoding_never_panics(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Record::decode(&bytes);
    }

    #[test]
    fn decoding_a_damaged_record_never_panics(record in record(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = record.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Record::decode(&bytes);
    }

    #[test]
    fn a_shortened_record_is_refused(record in record(), at in any::<prop::sample::Index>()) {
        let bytes = record.encode();
        prop_assert!(Record::decode(&bytes[..at.index(bytes.len())]).is_err());
    }
}

/// A change of this test's bytes is a change of the format.
#[test]
fn the_bytes_of_an_operation_stand_as_specified() {
    let op = Op::Unlink {
        by: By {
            uid: 1,
            gid: 2,
            pid: 3,
        },
        at: Name {
            parent: InodeNo(2),
            name: b"ab".to_vec(),
        },
        inode: InodeNo(12),
        time: Time { secs: 5, nanos: 6 },
    };
    let redo = vec![
        Redo::Edit {
            block: BlockNo(7),
            ranges: Ranges::from_iter([(9, [0xEE])]),
        },
        Redo::Free {
            first: BlockNo(8),
            count: 1,
        },
    ];
    let record = Record::Operation(Operation {
        op,
        paths: vec![(InodeNo(2), b"/".to_vec())],
        program: Some(b"rm".to_vec()),
        redo,
    });
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1, 1,                                           // version, kind
        3, 1,0,0,0, 2,0,0,0, 3,0,0,0,                   // unlink by
        2,0,0,0, 2,0,0,0, b'a', b'b', 12,0,0,0,         // at, inode
        5,0,0,0,0,0,0,0, 6,0,0,0,                       // time
        1,0, 2,0,0,0, 1,0,0,0, b'/',                    // paths
        1, 2,0,0,0, b'r', b'm',                         // program
        2,0,0,0,                                        // redo
        3, 7,0,0,0,0,0,0,0, 1,0, 9,0, 1,0, 0xEE,
        6, 8,0,0,0,0,0,0,0, 1,0,0,0,0,0,0,0,
    ];
    assert_eq!(record.encode(), expected);
}

#[test]
fn a_record_of_another_version_is_refused_by_number() {
    let mut bytes = Record::Install(Lsn(7)).encode();
    bytes[0] = 2;
    let flaw = Record::decode(&bytes).unwrap_err();
    let words = "its format version is 2, this journalfs knows 1";
    assert_eq!(flaw.to_string(), words);
}

#[test]
fn a_base_with_more_samples_than_anybody_takes_is_refused() {
    let with = |count: u64| {
        let samples = (0..count).map(|n| (BlockNo(n), 0)).collect();
        Record::Checkpoint(Base {
            samples,
            ..Base::default()
        })
    };
    assert!(Record::decode(&with(64).encode()).is_ok());
    assert!(Record::decode(&with(65).encode()).is_err());
}

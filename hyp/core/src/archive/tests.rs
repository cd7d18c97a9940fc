use proptest::prelude::*;

use super::*;
use crate::testing::append_member;

fn sample() -> Vec<u8> {
    let mut bytes = Vec::new();
    append_member(&mut bytes, ".", 0o040_755, b"");
    append_member(&mut bytes, "./linux", 0o100_644, b"kernel");
    append_member(&mut bytes, "initrd", 0o100_644, b"");
    append_member(&mut bytes, TRAILER, 0, b"");
    bytes
}

#[test]
fn finds_files_and_ignores_padding() {
    let mut bytes = sample();
    bytes.resize(bytes.len().next_multiple_of(512) + 4096, 0);
    let archive = Archive::new(&bytes).unwrap();
    assert_eq!(archive.names().collect::<Vec<_>>(), ["linux", "initrd"]);
    assert_eq!(archive.bytes(&archive.find("linux").unwrap()), b"kernel");
    assert_eq!(archive.bytes(&archive.find("initrd").unwrap()), b"");
    assert_eq!(archive.find("."), None);
}

#[test]
fn says_what_is_wrong() {
    let bytes = sample();
    let error = |bytes: &[u8]| Archive::new(bytes).err();
    assert_eq!(
        error(&bytes[1..]),
        Some(ArchiveError::NotCpio { offset: 0 })
    );
    assert_eq!(error(b""), Some(ArchiveError::Truncated { offset: 0 }));
    let trailer = bytes.len() - 124;
    assert_eq!(
        error(&bytes[..trailer]),
        Some(ArchiveError::Truncated { offset: trailer })
    );
    let mut signed = bytes.clone();
    signed[14] = b'+';
    assert_eq!(error(&signed), Some(ArchiveError::Malformed { offset: 0 }));
}

proptest! {
    #[test]
    fn never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), cut in any::<prop::sample::Index>()) {
        let mut bytes = sample();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(archive) = Archive::new(&bytes) {
            for name in archive.names() {
                prop_assert!(archive.bytes(&archive.find(name).unwrap()).len() <= bytes.len());
            }
        }
    }
}

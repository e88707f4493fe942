//! The witness judged: `check` and e2fsck on good images and on images
//! damaged in controlled ways.

mod support;

use support::images::VARIANTS;
use support::kernel::Mount;
use support::tree::Tree;

#[test]
fn the_judges_agree_on_every_fresh_image() {
    for variant in VARIANTS {
        let image = variant.make(16 << 20);
        support::e2fsck::assert_clean(image.path());
        let Some(mount) = Mount::read_write(image.path()) else {
            return;
        };
        std::fs::write(mount.at("file"), b"contents").unwrap();
        let before = Tree::of(mount.path());
        mount.unmount();
        let mount = Mount::read_only(image.path()).unwrap();
        before.assert_same("first mount", &Tree::of(mount.path()), "second mount");
        mount.unmount();
        support::e2fsck::assert_clean(image.path());
    }
}

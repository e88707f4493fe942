//! `journalfs mkfs`.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::device::Disk;
use crate::device::host::HostDisk;
use crate::fs::mkfs::{MkfsError, MkfsOptions, mkfs};
use crate::fs::mount::Lock;
use crate::units::{Clock, HostClock, Time};

use super::place::Place;
use super::{Failure, Outcome, at, size};

/// What is made unless a size is given.
const DEFAULT_SIZE: u64 = 1 << 30;
/// The time in deterministic images: 2000-01-01.
const FIXED_TIME: Time = Time {
    secs: 946_684_800,
    nanos: 0,
};

/// Makes an ext4 image. Its root directory belongs to the caller.
#[derive(clap::Args)]
pub struct Args {
    /// Bytes, with K, M, G or T (default: 1G, or the size of what is there)
    #[arg(long, value_parser = size::parse)]
    size: Option<u64>,
    /// The volume's name, up to 16 bytes
    #[arg(long, default_value = "")]
    label: String,
    /// The volume's UUID (default: random)
    #[arg(long, value_parser = uuid)]
    uuid: Option<[u8; 16]>,
    /// 1024, 2048 or 4096 (default: as fits the size)
    #[arg(long, value_name = "N")]
    block_size: Option<u32>,
    /// The same seed makes the same bytes
    #[arg(long, value_name = "SEED")]
    deterministic: Option<u64>,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
    /// The image to make
    image: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    make(args)?;
    Ok(0)
}

/// Makes an image of a size with everything else as usual.
pub fn create(image: &Path, size: u64) -> Result<(), Failure> {
    make(&Args {
        size: Some(size),
        label: String::new(),
        uuid: None,
        block_size: None,
        deterministic: None,
        force: false,
        image: image.to_owned(),
    })
}

fn make(args: &Args) -> Result<(), Failure> {
    let (_lock, disk, is_new) = open(args)?;
    let size = match args.size {
        Some(size) => size,
        None if is_new => DEFAULT_SIZE,
        None => disk
            .len()
            .map_err(|e| Failure::refused(at(&args.image, e)))?,
    };
    let options = MkfsOptions {
        size,
        label: args.label.clone(),
        uuid: args.uuid,
        block_size: args.block_size,
        seed: args.deterministic,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        time: if args.deterministic.is_some() {
            FIXED_TIME
        } else {
            HostClock.wall()
        },
    };
    let disk: Arc<dyn Disk> = Arc::new(disk);
    match mkfs(&disk, &options) {
        Ok(_) => Ok(()),
        Err(error) => {
            if is_new {
                let _ = std::fs::remove_file(&args.image);
            }
            Err(match error {
                MkfsError::Usage(why) => Failure::usage(at(&args.image, why)),
                other => Failure::refused(at(&args.image, other)),
            })
        }
    }
}

/// The file to write, ours alone; and whether it is a new one.
fn open(args: &Args) -> Result<(Lock, HostDisk, bool), Failure> {
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&args.image);
    let is_new = match made {
        Ok(_) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
        Err(e) => {
            return Err(Failure::refused(at(
                &args.image,
                format!("can't be made: {e}"),
            )));
        }
    };
    let place = Place::find(&args.image, None)?;
    if place.is_block_device() {
        // mkfs counts on zeros where it writes nothing.
        return Err(Failure::refused(at(
            &args.image,
            "is a block device: make the file system with mkfs.ext4",
        )));
    }
    let (lock, disk) = place.seize_image()?;
    let empty = disk.len().is_ok_and(|len| len == 0);
    if !is_new && !empty && !args.force {
        return Err(Failure::refused(at(
            &args.image,
            "exists: choose another name, or overwrite it with mkfs --force",
        )));
    }
    Ok((lock, disk, is_new))
}

fn uuid(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return Err("a UUID has 32 hexadecimal digits".to_owned());
    }
    let mut uuid = [0; 16];
    for (byte, at) in uuid.iter_mut().zip((0..).step_by(2)) {
        let pair = digits.get(at..at + 2).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16)
            .map_err(|_| "a UUID has hexadecimal digits only".to_owned())?;
    }
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read() {
        let read = uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((read[0], read[15]), (0, 0xff));
        assert!(uuid("0011").is_err());
        assert!(uuid("zz112233-4455-6677-8899-aabbccddeeff").is_err());
    }
}

//! From answers to fuser's replies, one way for each kind.

use fuser::{
    Errno, FileHandle, FopenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use crate::fs::{Caller, Groups};

use super::adapter::Adapter;
use super::reply::{TTL, Told, attributes, errno, generation, nothing, told};
use super::request::{Answer, Reply, Request};
use super::service::Service;

impl<S: Service> Adapter<S> {
    pub(super) fn by(&self, request: &fuser::Request) -> Caller {
        self.place();
        Caller {
            uid: request.uid(),
            gid: request.gid(),
            pid: request.pid(),
            groups: Groups::ask(self.processes.clone()),
        }
    }

    pub(super) fn serve(
        &self,
        by: &fuser::Request,
        request: Request<'_>,
        answer: impl FnOnce(Answer) + Send + 'static,
    ) {
        self.service.serve(self.by(by), request, answer, None);
    }

    pub(super) fn empty(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyEmpty) {
        self.serve(by, request, |answer| match answer {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn entry(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyEntry) {
        self.serve(by, request, |answer| match answer {
            Ok(Reply::Entry(attr)) => reply.entry(&TTL, &attributes(&attr), generation(&attr)),
            Ok(_) => reply.entry(&TTL, &nothing(), fuser::Generation(0)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn attr(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyAttr) {
        self.serve(by, request, |answer| match answer {
            Ok(Reply::Attr(attr)) => reply.attr(&TTL, &told(&attr)),
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn opened(
        &self,
        by: &fuser::Request,
        request: Request<'_>,
        flags: FopenFlags,
        reply: ReplyOpen,
    ) {
        self.serve(by, request, move |answer| match answer {
            Ok(Reply::Opened { appends: true }) => {
                let handle = FileHandle(Request::APPENDS);
                reply.opened(handle, flags | FopenFlags::FOPEN_DIRECT_IO);
            }
            Ok(_) => reply.opened(FileHandle(0), flags),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn data(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyData) {
        self.serve(by, request, |answer| match answer {
            Ok(Reply::Bytes(bytes)) => reply.data(&bytes),
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn xattr(
        &self,
        by: &fuser::Request,
        request: Request<'_>,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.serve(by, request, move |answer| match answer {
            Ok(Reply::Bytes(bytes)) if size == 0 => reply.size(bytes.len() as u32),
            Ok(Reply::Bytes(bytes)) if bytes.len() <= size as usize => reply.data(&bytes),
            Ok(Reply::Bytes(_)) => reply.error(Errno::ERANGE),
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn written(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyWrite) {
        self.serve(by, request, |answer| match answer {
            Ok(Reply::Written(len)) => reply.written(len),
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn created(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyCreate) {
        self.serve(by, request, |answer| match answer {
            Ok(Reply::Created(attr)) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(
                    &TTL,
                    &attributes(&attr),
                    generation(&attr),
                    FileHandle(0),
                    flags,
                );
            }
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn offset(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyLseek) {
        self.serve(by, request, |answer| match answer {
            Ok(Reply::Offset(at)) => reply.offset(at as i64),
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// What an ioctl tells of the attributes.
    pub(super) fn told(
        &self,
        by: &fuser::Request,
        request: Request<'_>,
        told: Told,
        reply: ReplyIoctl,
    ) {
        self.serve(by, request, move |answer| match answer {
            Ok(Reply::Attr(attr)) => reply.ioctl(0, &told.of(&attr)),
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// An ioctl that answers nothing.
    pub(super) fn done(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyIoctl) {
        self.serve(by, request, |answer| match answer {
            Ok(_) => reply.ioctl(0, &[]),
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// What FITRIM answers: its argument with the bytes given back as `len`.
    pub(super) fn trimmed(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyIoctl) {
        let (start, least) = match request {
            Request::Trim { start, least, .. } => (start, least),
            _ => (0, 0),
        };
        self.serve(by, request, move |answer| match answer {
            Ok(Reply::Trimmed(len)) => {
                let range = [start, len, least].map(u64::to_ne_bytes);
                reply.ioctl(0, range.as_flattened());
            }
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    pub(super) fn figures(&self, by: &fuser::Request, request: Request<'_>, reply: ReplyStatfs) {
        self.serve(by, request, |answer| match answer {
            Ok(Reply::Statfs(s)) => reply.statfs(
                s.blocks,
                s.free,
                s.available,
                s.inodes,
                s.free_inodes,
                s.block_size,
                s.name_max,
                s.block_size,
            ),
            Ok(_) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }
}

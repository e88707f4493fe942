//! The `journalfs` command: parse, dispatch, exit code.

fn main() -> std::process::ExitCode {
    journalfs::cli::main()
}

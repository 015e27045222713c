//! Tells the binary which commit and compiler it was built from.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=GATEWAY_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    watch_commit();
    let commit = std::env::var("GATEWAY_COMMIT").ok();
    let commit = commit.or_else(|| first_line("git", &["rev-parse", "--short=12", "HEAD"]));
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = first_line(&compiler, &["--version"]);
    let unknown = || "unknown".to_owned();
    println!(
        "cargo:rustc-env=GATEWAY_COMMIT={}",
        commit.unwrap_or_else(unknown)
    );
    println!(
        "cargo:rustc-env=GATEWAY_RUSTC={}",
        rustc.unwrap_or_else(unknown)
    );
}

/// Runs this again when another commit is checked out or made; the log has a line for each.
///
/// Git says where it keeps that, which in a worktree is elsewhere. A path that is not there would make
/// every build one from the start.
fn watch_commit() {
    for name in ["HEAD", "logs/HEAD"] {
        let path = first_line("git", &["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| std::path::Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// The first line a command prints, if it succeeds.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

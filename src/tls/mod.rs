//! TLS: the cryptography of the process, and what backends must prove.

pub mod backend;

/// Makes aws-lc-rs the process's cryptography. Once; whoever comes later changes nothing.
///
/// To be called before Pingora makes its first connector, which would choose another one.
pub fn install_provider() {
    // An error says that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

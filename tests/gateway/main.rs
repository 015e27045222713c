//! Every behaviour of the binary, on real sockets.

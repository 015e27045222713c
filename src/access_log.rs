//! One line per request, written off the request path.

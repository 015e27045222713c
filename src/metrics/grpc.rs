//! What gRPC calls ended with, as backends said it.

use super::label::{Label, label};

label! {
    /// A status code of gRPC, in the order of its number.
    GrpcCode {
        /// The call succeeded.
        Ok = "OK",
        /// The caller gave up.
        Cancelled = "CANCELLED",
        /// Nobody knows, or the code is none of these.
        Unknown = "UNKNOWN",
        /// The caller asked for nonsense.
        InvalidArgument = "INVALID_ARGUMENT",
        /// It took too long.
        DeadlineExceeded = "DEADLINE_EXCEEDED",
        /// What was asked for is not there.
        NotFound = "NOT_FOUND",
        /// What was to be made is there.
        AlreadyExists = "ALREADY_EXISTS",
        /// The caller may not.
        PermissionDenied = "PERMISSION_DENIED",
        /// Something is used up.
        ResourceExhausted = "RESOURCE_EXHAUSTED",
        /// The state does not allow it.
        FailedPrecondition = "FAILED_PRECONDITION",
        /// Something else came in between.
        Aborted = "ABORTED",
        /// Beyond the end.
        OutOfRange = "OUT_OF_RANGE",
        /// There is no such method.
        Unimplemented = "UNIMPLEMENTED",
        /// A fault of the service.
        Internal = "INTERNAL",
        /// The service is not there.
        Unavailable = "UNAVAILABLE",
        /// Data is lost.
        DataLoss = "DATA_LOSS",
        /// The caller is nobody.
        Unauthenticated = "UNAUTHENTICATED",
    }
}

impl GrpcCode {
    /// The code in a `grpc-status`; what is none of those defined stands for nobody knows.
    pub fn read(status: &[u8]) -> Self {
        let number = std::str::from_utf8(status)
            .ok()
            .and_then(|text| text.parse::<usize>().ok());
        number
            .and_then(|number| Self::ALL.get(number).copied())
            .unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_from_zero() {
        assert_eq!(GrpcCode::read(b"0"), GrpcCode::Ok);
        assert_eq!(GrpcCode::read(b"14"), GrpcCode::Unavailable);
        assert_eq!(GrpcCode::read(b"16"), GrpcCode::Unauthenticated);
        for status in [&b"17"[..], b"", b"-1", b"x", b"\xff"] {
            assert_eq!(GrpcCode::read(status), GrpcCode::Unknown);
        }
    }
}

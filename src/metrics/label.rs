//! Labels whose values form a closed set, and counters indexed by them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::Method;

/// A closed set of label values.
pub(super) trait Label: Copy + 'static {
    /// All values, in the order of their index.
    const ALL: &'static [Self];
    /// The position in [`Label::ALL`].
    fn index(self) -> usize;
    /// The value as it is written.
    fn as_str(self) -> &'static str;
}

/// Declares an enum as a closed set of label values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$value_doc])* $value,)+ }

        impl $crate::metrics::label::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$value,)+];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }

        impl $name {
            /// The value as it is written in metrics and logs.
            pub fn as_str(self) -> &'static str {
                $crate::metrics::label::Label::as_str(self)
            }
        }
    };
}
pub(super) use label;

label! {
    /// A request method; what clients invent is one value.
    MethodLabel {
        /// GET
        Get = "GET",
        /// HEAD
        Head = "HEAD",
        /// POST
        Post = "POST",
        /// PUT
        Put = "PUT",
        /// DELETE
        Delete = "DELETE",
        /// PATCH
        Patch = "PATCH",
        /// OPTIONS
        Options = "OPTIONS",
        /// TRACE
        Trace = "TRACE",
        /// CONNECT
        Connect = "CONNECT",
        /// Any other method
        Other = "OTHER",
    }
}

impl From<&Method> for MethodLabel {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::DELETE => Self::Delete,
            Method::PATCH => Self::Patch,
            Method::OPTIONS => Self::Options,
            Method::TRACE => Self::Trace,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// One counter for each value of a label with at most `N` values.
pub(super) struct Counts<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Counts<N> {
    /// Counts one more.
    pub fn inc<L: Label>(&self, label: L) {
        const { assert!(L::ALL.len() == N) };
        if let Some(count) = self.0.get(label.index()) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The count of one value.
    pub fn count<L: Label>(&self, label: L) -> u64 {
        const { assert!(L::ALL.len() == N) };
        let count = self.0.get(label.index());
        count.map_or(0, |count| count.load(Relaxed))
    }

    /// The values with their counts; those never counted are left out.
    pub fn read<L: Label>(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = L::ALL.iter().zip(&self.0);
        let read = counts.map(|(label, count)| (label.as_str(), count.load(Relaxed)));
        read.filter(|&(_, count)| count > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn methods_are_a_closed_set() {
        for label in MethodLabel::ALL {
            let method = Method::from_bytes(label.as_str().as_bytes()).unwrap();
            assert_eq!(MethodLabel::from(&method), *label);
        }
        let invented = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(MethodLabel::from(&invented), MethodLabel::Other);
    }

    #[test]
    fn counts_by_value() {
        let counts = Counts::<10>::default();
        counts.inc(MethodLabel::Post);
        counts.inc(MethodLabel::Post);
        let read: Vec<_> = counts.read::<MethodLabel>().collect();
        assert_eq!(read, [("POST", 2)]);
    }
}

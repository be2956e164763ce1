//! Counts that Python may read at any time. Each is written by the transport's thread only.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub struct Stats { $($(#[doc = $doc])* pub $name: AtomicU64,)* }

        impl Stats {
            /// All of them by name.
            pub fn read(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed)),)*]
            }
        }
    };
}

counts! {
    /// Connections that take calls now.
    connections,
    /// Connections that have come about, ever.
    connected,
    /// Attempts to connect, or to look a name up, that failed.
    connect_failures,
    /// Calls that wait for a connection or a free stream.
    waiting,
    /// Calls put on the wire, ever; one that went out twice counts twice.
    sent,
    /// Calls that went out again because the server certainly never ran them.
    sent_again,
    /// Pings that were not answered in time.
    keepalive_failures,
}

pub fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Relaxed);
}

pub fn sub(count: &AtomicU64, by: u64) {
    count.fetch_sub(by, Relaxed);
}

pub fn set(count: &AtomicU64, to: u64) {
    count.store(to, Relaxed);
}

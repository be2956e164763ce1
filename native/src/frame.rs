//! The five bytes before every gRPC message, and the one message of a unary answer, put together as it comes.
//!
//! Limits hold before anything is kept or inflated. Nothing here knows of streams or statuses.

use bytes::{BufMut, Bytes, BytesMut};
use std::io::Read;

/// A flag and a length.
pub const HEAD_BYTES: usize = 5;

/// A request's body as it travels: one message, not compressed.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
    framed.put_u8(0);
    framed
        .put_u32(u32::try_from(message.len()).expect("requests are held against a limit of 32 bits before"));
    framed.put_slice(message);
    framed.freeze()
}

/// What is wrong with an answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// More bytes than are taken.
    TooLarge { announced: u64, max: usize },
    /// The body ended within the message.
    CutShort,
    /// Bytes that gRPC does not allow there.
    Malformed(&'static str),
}

/// How the answer's message may be compressed, by its `grpc-encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
}

/// Takes the body's bytes in pieces of any size; holds at most one message of at most `max` bytes.
pub struct Collector {
    encoding: Encoding,
    max: usize,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    message: Vec<u8>,
}

impl Collector {
    pub fn new(encoding: Encoding, max: usize) -> Self {
        Collector { encoding, max, head: [0; HEAD_BYTES], head_len: 0, message: Vec::new() }
    }

    fn announced(&self) -> usize {
        u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]) as usize
    }

    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), Flaw> {
        while self.head_len < HEAD_BYTES {
            let Some((&first, rest)) = piece.split_first() else { return Ok(()) };
            self.head[self.head_len] = first;
            self.head_len += 1;
            piece = rest;
            if self.head_len == HEAD_BYTES {
                if self.head[0] > 1 {
                    return Err(Flaw::Malformed("a message's first byte is neither 0 nor 1"));
                }
                if self.head[0] == 1 && self.encoding == Encoding::Identity {
                    return Err(Flaw::Malformed("a compressed message without a grpc-encoding"));
                }
                if self.announced() > self.max {
                    return Err(Flaw::TooLarge { announced: self.announced() as u64, max: self.max });
                }
            }
        }
        if piece.len() > self.announced() - self.message.len() {
            return Err(Flaw::Malformed("more than one message in a unary answer"));
        }
        self.message.extend_from_slice(piece);
        Ok(())
    }

    /// The message, once the body has ended; None for a body without one.
    pub fn finish(self) -> Result<Option<Vec<u8>>, Flaw> {
        if self.head_len == 0 {
            return Ok(None);
        }
        if self.head_len < HEAD_BYTES || self.message.len() < self.announced() {
            return Err(Flaw::CutShort);
        }
        if self.head[0] == 0 {
            return Ok(Some(self.message));
        }
        inflate(&self.message, self.max).map(Some)
    }
}

/// A gzip stream with a ceiling: a bomb costs no more than `max` bytes.
fn inflate(compressed: &[u8], max: usize) -> Result<Vec<u8>, Flaw> {
    let mut plain = Vec::new();
    let mut bounded = flate2::read::MultiGzDecoder::new(compressed).take(max as u64 + 1);
    match bounded.read_to_end(&mut plain) {
        Err(_) => Err(Flaw::Malformed("the answer's message is no gzip")),
        Ok(size) if size > max => Err(Flaw::TooLarge { announced: size as u64, max }),
        Ok(_) => Ok(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const MAX: usize = 1_000;

    fn collect(encoding: Encoding, body: &[u8], piece: usize) -> Result<Option<Vec<u8>>, Flaw> {
        let mut collector = Collector::new(encoding, MAX);
        for part in body.chunks(piece.max(1)) {
            collector.feed(part)?;
        }
        collector.finish()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        let compressed = encoder.finish().unwrap();
        let mut framed = vec![1];
        framed.extend_from_slice(&u32::try_from(compressed.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(&compressed);
        framed
    }

    #[test]
    fn a_message_in_pieces_of_any_size() {
        for size in [0, 1, 4, 5, 999, MAX] {
            let message: Vec<u8> = (0..size).map(|n| n as u8).collect();
            for piece in [1, 2, 5, 6, 7, 4_096] {
                assert_eq!(collect(Encoding::Identity, &frame(&message), piece), Ok(Some(message.clone())));
                assert_eq!(collect(Encoding::Gzip, &frame(&message), piece), Ok(Some(message.clone())));
                assert_eq!(collect(Encoding::Gzip, &gzip(&message), piece), Ok(Some(message.clone())));
            }
        }
    }

    #[test]
    fn no_message() {
        assert_eq!(collect(Encoding::Identity, b"", 1), Ok(None));
    }

    #[test]
    fn what_is_no_message() {
        let malformed = |encoding, body: &[u8]| {
            assert!(matches!(collect(encoding, body, 3), Err(Flaw::Malformed(_))), "{body:?}");
        };
        malformed(Encoding::Identity, b"\x02\0\0\0\0");
        malformed(Encoding::Identity, b"\x01\0\0\0\0");
        malformed(Encoding::Identity, b"\0\0\0\0\x01ab");
        malformed(Encoding::Identity, b"\0\0\0\0\0\0\0\0\0\0");
        malformed(Encoding::Gzip, b"\x01\0\0\0\x03abc");
        for short in [&b"\0\0\0"[..], b"\0\0\0\0\x02a"] {
            assert_eq!(collect(Encoding::Identity, short, 3), Err(Flaw::CutShort));
        }
    }

    #[test]
    fn too_large_is_known_by_its_head_alone() {
        assert_eq!(
            collect(Encoding::Identity, b"\0\xff\xff\xff\xff", 5),
            Err(Flaw::TooLarge { announced: 0xffff_ffff, max: MAX })
        );
        assert!(matches!(collect(Encoding::Identity, &frame(&[0; MAX + 1]), 5), Err(Flaw::TooLarge { .. })));
    }

    #[test]
    fn a_bomb_is_defused() {
        let bomb = gzip(&vec![0; 500_000]);
        assert!(bomb.len() < MAX);
        assert!(matches!(collect(Encoding::Gzip, &bomb, 64), Err(Flaw::TooLarge { .. })));
    }

    /// Any bytes in any pieces: an answer or a flaw, never a panic, and never more than the limit kept.
    #[test]
    fn anything_at_all() {
        let mut random = crate::metadata::tests::Random(0x5eed);
        let seeds: [Vec<u8>; 4] =
            [frame(b"hello").to_vec(), gzip(&[7; 300]), frame(&[0; MAX]).to_vec(), gzip(&[0; 100_000])];
        for round in 0..20_000usize {
            let mut body = seeds[round % seeds.len()].clone();
            for _ in 0..random.below(6) {
                match (random.below(4), body.len()) {
                    (0, len) if len > 0 => body[random.below(len.min(12))] = random.draw() as u8,
                    (1, len) if len > 0 => body[random.below(len)] ^= 1 << random.below(8),
                    (2, len) => body.truncate(random.below(len + 1)),
                    _ => body.push(random.draw() as u8),
                }
            }
            for encoding in [Encoding::Identity, Encoding::Gzip] {
                let whole = collect(encoding, &body, body.len());
                if let Ok(Some(message)) = &whole {
                    assert!(message.len() <= MAX);
                }
                let piece = 1 + random.below(9);
                assert_eq!(collect(encoding, &body, piece).is_ok(), whole.is_ok(), "seed round {round}");
            }
        }
    }
}

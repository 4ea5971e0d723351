//! permessage-deflate at the other end, by an implementation that is not ours.

use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush};

/// The first byte of a whole compressed frame, without its opcode.
pub(crate) const COMPRESSED: u8 = 0xc0;

const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The payload of a message that is compressed by itself.
pub(crate) fn compressed(message: &[u8]) -> Vec<u8> {
    Peer::default().compress(message)
}

/// The message of a payload that was compressed by itself.
pub(crate) fn inflated(payload: &[u8]) -> Vec<u8> {
    Peer::default().inflate(payload)
}

/// A peer that takes its context over, in both directions.
pub(crate) struct Peer {
    compressor: Box<CompressorOxide>,
    inflater: Box<InflateState>,
}

impl Default for Peer {
    fn default() -> Self {
        let mut compressor = Box::<CompressorOxide>::default();
        compressor.set_format_and_level(DataFormat::Raw, 6);
        Self { compressor, inflater: InflateState::new_boxed(DataFormat::Raw) }
    }
}

impl Peer {
    pub(crate) fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; 2 * message.len() + 100];
        let done = deflate(&mut self.compressor, message, &mut payload, MZFlush::Sync);
        assert_eq!(done.bytes_consumed, message.len());
        payload.truncate(done.bytes_written);
        assert!(payload.ends_with(&TAIL), "a flushed stream");
        payload.truncate(payload.len() - TAIL.len());
        payload
    }

    pub(crate) fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let payload = [payload, &TAIL].concat();
        let (mut message, mut taken) = (Vec::new(), 0);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let done = inflate(&mut self.inflater, &payload[taken..], &mut chunk, MZFlush::None);
            taken += done.bytes_consumed;
            message.extend_from_slice(&chunk[..done.bytes_written]);
            if taken == payload.len() && done.bytes_written < chunk.len() {
                return message;
            }
            done.status.expect("valid DEFLATE");
        }
    }
}

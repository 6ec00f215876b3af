//! TensorBoard event files.
//!
//! Responsible for: converting events to `Event` messages of TensorBoard's `event.proto` and `summary.proto`, in
//! TFRecord framing (length, masked CRC-32C, data, masked CRC-32C).
//! Must not depend on: files; the output is bytes.

use crate::events::{Event, EventKind};

/// `DataType.DT_STRING`
const DT_STRING: u64 = 7;
/// `SessionLog.SessionStatus.START`. Readers drop all earlier values from this step on.
const START: u64 = 1;
/// Maximum bytes of the text of a sample. Longer texts are cut and marked.
const LONGEST_TEXT: usize = 1 << 16;

/// The first record of every file. `t` is Unix time in seconds.
pub fn header(t: f64) -> Vec<u8> {
    let mut message = Message::default();
    message.double(1, t);
    message.bytes(3, b"brain.Event:2");
    record(&message.0)
}

/// The records of an event; empty for kinds that TensorBoard can't show.
pub fn records(event: &Event) -> Vec<u8> {
    let t = event.t;
    match &event.kind {
        EventKind::AttemptStarted { from_step, .. } if *from_step > 0 || event.attempt > 1 => {
            let mut log = Message::default();
            log.number(1, START);
            let mut message = Message::at(t, from_step.saturating_add(1));
            message.bytes(7, &log.0);
            record(&message.0)
        }
        EventKind::Step {
            step,
            epoch,
            loss,
            lr,
            grad_norm,
            tokens_per_second,
            peak_rss_bytes,
            accelerator_bytes,
            ..
        } => {
            let mut values = vec![
                scalar("train/loss", *loss),
                scalar("train/learning_rate", *lr),
                scalar("train/grad_norm", *grad_norm),
                scalar("train/tokens_per_second", *tokens_per_second),
                scalar("train/epoch", *epoch),
            ];
            values.extend(peak_rss_bytes.map(|bytes| scalar("memory/peak_rss_bytes", bytes as f64)));
            values.extend(accelerator_bytes.map(|bytes| scalar("memory/accelerator_bytes", bytes as f64)));
            summary(t, *step, &values)
        }
        EventKind::Eval { step, loss, .. } => summary(t, *step, &[scalar("eval/loss", *loss)]),
        EventKind::Sample { step, prompt, text, missing, violations, .. } => {
            let mut markdown = format!("**{}**\n\n{}", prompt.trim(), text.trim());
            if !missing.is_empty() {
                markdown += &format!("\n\nmissing: {}", missing.join(", "));
            }
            if !violations.is_empty() {
                markdown += &format!("\n\nto avoid: {}", violations.join(", "));
            }
            summary(t, *step, &[words(&format!("samples/{}", title(prompt)), markdown)])
        }
        _ => Vec::new(),
    }
}

/// The first words of a prompt, as a tag.
fn title(prompt: &str) -> String {
    let words = prompt.split_whitespace().take(8).collect::<Vec<_>>().join("_");
    words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).take(60).collect()
}

fn summary(t: f64, step: u64, values: &[Message]) -> Vec<u8> {
    let mut summary = Message::default();
    values.iter().for_each(|value| summary.bytes(1, &value.0));
    let mut message = Message::at(t, step);
    message.bytes(5, &summary.0);
    record(&message.0)
}

fn scalar(tag: &str, value: f64) -> Message {
    let mut message = Message::default();
    message.bytes(1, tag.as_bytes());
    message.float(2, value as f32);
    message
}

/// A text in the form of the text plugin: a tensor with one string.
fn words(tag: &str, mut text: String) -> Message {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" […]");
    }
    let (mut dim, mut shape, mut tensor) = (Message::default(), Message::default(), Message::default());
    dim.number(1, 1);
    shape.bytes(2, &dim.0);
    tensor.number(1, DT_STRING);
    tensor.bytes(2, &shape.0);
    tensor.bytes(8, text.as_bytes());
    let (mut plugin, mut metadata) = (Message::default(), Message::default());
    plugin.bytes(1, b"text");
    metadata.bytes(1, &plugin.0);
    let mut message = Message::default();
    message.bytes(1, tag.as_bytes());
    message.bytes(8, &tensor.0);
    message.bytes(9, &metadata.0);
    message
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// An `Event` with its time and step.
    fn at(t: f64, step: u64) -> Self {
        let mut message = Self::default();
        message.double(1, t);
        message.number(2, step);
        message
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A field's number and wire type.
    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

/// Data in its TFRecord frame.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked(crc32c(&length)).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked(crc32c(data)).to_le_bytes());
    record
}

/// TFRecord's mask for checksums. Without it, data that contains checksums could verify by chance.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), a byte at a time.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = index as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        // RFC 3720, B.4, and the standard check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_scalar_is_framed() {
        let kind = EventKind::Eval { step: 300, loss: 1.5, tokens: 1 };
        let record = records(&Event { v: 1, seq: 1, attempt: 1, t: 2.0, kind });
        let length = u64::from_le_bytes(record[..8].try_into().expect("eight bytes"));
        assert_eq!(record.len() as u64, length + 16);
        let mut expected = vec![0x09];
        expected.extend_from_slice(&2f64.to_le_bytes());
        expected.extend_from_slice(&[0x10, 0xac, 0x02, 0x2a, 18, 0x0a, 16, 0x0a, 9]);
        expected.extend_from_slice(b"eval/loss");
        expected.push(0x15);
        expected.extend_from_slice(&1.5f32.to_le_bytes());
        assert_eq!(record[12..record.len() - 4], expected);
    }

    #[test]
    fn events_without_a_tensorboard_form_make_no_record() {
        let kind = EventKind::Notice { message: "x".into() };
        assert!(records(&Event { v: 1, seq: 1, attempt: 1, t: 2.0, kind }).is_empty());
    }
}

//! Writes a Parquet file with one column of strings: `parquet.thrift` of apache/parquet-format in Thrift's compact
//! protocol.

/// A Thrift value.
enum Thrift {
    I32(i64),
    I64(i64),
    Text(&'static str),
    List(Vec<Thrift>),
    Struct(Vec<(u8, Thrift)>),
}

use Thrift::{I32, I64, List, Struct, Text};

impl Thrift {
    fn kind(&self) -> u8 {
        match self {
            I32(_) => 5,
            I64(_) => 6,
            Text(_) => 8,
            List(_) => 9,
            Struct(_) => 12,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            I32(number) | I64(number) => varint(out, (number << 1 ^ number >> 63) as u64),
            Text(text) => {
                varint(out, text.len() as u64);
                out.extend(text.as_bytes());
            }
            List(items) => {
                out.push((items.len() as u8) << 4 | items[0].kind());
                items.iter().for_each(|item| item.write(out));
            }
            Struct(fields) => {
                let mut last = 0;
                for (id, value) in fields {
                    out.push((id - last) << 4 | value.kind());
                    value.write(out);
                    last = *id;
                }
                out.push(0);
            }
        }
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A file with a required column `text`.
pub(crate) fn parquet(texts: &[&str]) -> Vec<u8> {
    let rows = texts.len() as i64;
    let mut values = Vec::new();
    for text in texts {
        values.extend((text.len() as u32).to_le_bytes());
        values.extend(text.as_bytes());
    }
    let size = values.len() as i64;
    // PLAIN is encoding 0, RLE 3.
    let data = Struct(vec![(1, I32(rows)), (2, I32(0)), (3, I32(3)), (4, I32(3))]);
    let mut file = b"PAR1".to_vec();
    Struct(vec![(1, I32(0)), (2, I32(size)), (3, I32(size)), (5, data)]).write(&mut file);
    file.extend(values);
    let chunk = file.len() as i64 - 4;
    // Physical type 6 is BYTE_ARRAY, converted type 0 UTF8.
    let root = Struct(vec![(4, Text("schema")), (5, I32(1))]);
    let column = Struct(vec![(1, I32(6)), (3, I32(0)), (4, Text("text")), (6, I32(0))]);
    let metadata = Struct(vec![
        (1, I32(6)),
        (2, List(vec![I32(0)])),
        (3, List(vec![Text("text")])),
        (4, I32(0)),
        (5, I64(rows)),
        (6, I64(chunk)),
        (7, I64(chunk)),
        (9, I64(4)),
    ]);
    let column_chunk = Struct(vec![(2, I64(4)), (3, metadata)]);
    let group = Struct(vec![(1, List(vec![column_chunk])), (2, I64(chunk)), (3, I64(rows))]);
    let start = file.len();
    Struct(vec![(1, I32(1)), (2, List(vec![root, column])), (3, I64(rows)), (4, List(vec![group]))]).write(&mut file);
    let footer = (file.len() - start) as u32;
    file.extend(footer.to_le_bytes());
    file.extend(b"PAR1");
    file
}

//! Quantizes raw f32 values from standard input: `quantize FORMAT COLS [IMPORTANCE] < VALUES > BLOCKS`. IMPORTANCE is a file of
//! COLS f32. All numbers are little-endian. The last line on standard error is the speed.

use std::error::Error;
use std::io::{Read, Write};
use std::time::Instant;

use tonfall_blocks::{Format, quantize};

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, cols, importance @ ..] = arguments.as_slice() else { return Err("FORMAT COLS [IMPORTANCE]".into()) };
    let format = Format::ALL.into_iter().find(|format| format.name() == name).ok_or("an unknown format")?;
    let importance = importance.first().map(std::fs::read).transpose()?.map(|bytes| floats(&bytes));
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let values = floats(&bytes);
    let mut out = Vec::new();
    let start = Instant::now();
    quantize(format, &values, cols.parse()?, importance.as_deref(), &mut out);
    let seconds = start.elapsed().as_secs_f64();
    std::io::stdout().write_all(&out)?;
    eprintln!("{:.1} MB/s of f32", bytes.len() as f64 / seconds / 1e6);
    Ok(())
}

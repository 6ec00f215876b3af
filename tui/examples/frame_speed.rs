//! `frame_speed RUN`: prints the time to read a run's log and to draw a frame, as JSON. `benches/dashboard.py` uses it.
#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use tonfall_tui::{Environment, Look, Still, Watch};

const FRAMES: usize = 101;
const SIZES: [(u16, u16); 3] = [(80, 24), (200, 50), (300, 100)];

fn main() {
    let look = Look::detect(&Environment { colorterm: Some("truecolor".into()), ..Environment::default() });
    let what = Watch { runs: env::args_os().skip(1).map(PathBuf::from).collect(), directory: None, look };
    let begin = Instant::now();
    let mut still = Still::read(&what);
    still.draw(80, 24);
    print!("{{\"open_ms\": {:.3}", begin.elapsed().as_secs_f64() * 1e3);
    for (width, height) in SIZES {
        let mut times: Vec<f64> = (0..FRAMES)
            .map(|_| {
                let begin = Instant::now();
                still.draw(width, height);
                begin.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        print!(", \"frame_{width}x{height}_ms\": {:.3}", times[FRAMES / 2]);
    }
    println!("}}");
}

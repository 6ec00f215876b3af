//! Speed of the operations on the CPU, at the shapes of SmolLM2-135M: GFLOP/s of the GEMMs per number format, compared with
//! burn-flex's matmul, and milliseconds of the other operations. `cargo bench -p tonfall-kernels --bench ops`
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use tonfall_blocks::{bf16_from_f32, byte_len, quantize_nf4};
use tonfall_kernels::philox::Philox;
use tonfall_kernels::{
    Activation, Adapter, AttentionLayout, Format, FrozenMatrix, Head, HeadWeight, RopeTable, Segment, attention, glu,
    linear, linear_cross_entropy, lora_linear, rms_norm, rope,
};

const TOKENS: usize = 256;
const HIDDEN: usize = 576;
const FEED_FORWARD: usize = 1536;
const VOCABULARY: usize = 49_152;

/// The fastest of the runs within 0.4 s, in milliseconds.
fn best<T>(mut run: impl FnMut() -> T) -> f64 {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        black_box(run());
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e3
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut generator = Philox::new(seed, 0);
    (0..len).map(|_| generator.uniform() - 0.5).collect()
}

fn random(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers(rows * columns, seed), [rows, columns]), &Device::flex().autodiff())
}

fn stored(format: Format, rows: usize, cols: usize) -> FrozenMatrix {
    let values = numbers(rows * cols, 1);
    let bytes = match format {
        Format::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Format::Bf16 => values.iter().flat_map(|value| bf16_from_f32(*value).to_le_bytes()).collect(),
        Format::Nf4 => quantize_nf4(&values),
        // Any bytes are valid numbers in the other formats. Cleared high bits keep the exponents small.
        _ => (0..byte_len(format, rows, cols)).map(|i| (i * 29 % 251) as u8 & 0x1b).collect(),
    };
    FrozenMatrix::new(bytes, format, rows, cols, &Device::flex())
}

/// Milliseconds of the forward pass without autodiff, and of the backward pass.
fn both(leaf: &Tensor<2>, forward: impl Fn(Tensor<2>) -> Tensor<2>) -> (f64, f64) {
    let plain = leaf.clone().inner();
    let ahead = best(|| forward(plain.clone()));
    let gradient = random(forward(plain.clone()).dims()[0], forward(plain).dims()[1], 9);
    let mut back = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.4 {
        let leaf = leaf.clone().detach().require_grad();
        let loss = (forward(leaf) * gradient.clone()).sum();
        let start = Instant::now();
        black_box(loss.backward());
        back = back.min(start.elapsed().as_secs_f64());
    }
    (ahead, back * 1e3)
}

fn products() {
    println!("GEMM, GFLOP/s (forward x·Wᵀ / backward dy·W, which includes one element-wise product)");
    for (inputs, outputs) in
        [(HIDDEN, FEED_FORWARD), (FEED_FORWARD, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 192), (2048, 2048)]
    {
        let gflop = 2e-9 * (TOKENS * inputs * outputs) as f64;
        let x = random(TOKENS, inputs, 2);
        let dense = random(inputs, outputs, 3).inner();
        let flex = best(|| x.clone().inner().matmul(dense.clone()));
        print!("  {TOKENS}x{inputs}x{outputs}: flex {:.0}", gflop / flex * 1e3);
        for format in [Format::F32, Format::Bf16, Format::Nf4, Format::Q8_0, Format::Q4_0, Format::Q4K, Format::Q6K] {
            if inputs.is_multiple_of(format.block_len()) || format == Format::Nf4 {
                let weight = stored(format, outputs, inputs);
                let (ahead, back) = both(&x, |x| linear(x, &weight, None));
                print!(", {format} {:.0}/{:.0}", gflop / ahead * 1e3, gflop / back * 1e3);
            }
        }
        println!();
    }
    let weight = stored(Format::Nf4, FEED_FORWARD, HIDDEN);
    let one = random(1, HIDDEN, 4).inner();
    println!("  1x{HIDDEN}x{FEED_FORWARD} NF4: {:.3} ms", best(|| linear(one.clone(), &weight, None)));
}

fn operations() {
    println!("operations at {TOKENS} tokens, ms (forward / backward)");
    let show = |name: &str, (ahead, back): (f64, f64)| println!("  {name}: {ahead:.3} / {back:.3}");
    let x = random(TOKENS, HIDDEN, 5);
    let weight = stored(Format::Nf4, FEED_FORWARD, HIDDEN);
    let (a, b) = (random(16, HIDDEN, 6).require_grad(), random(FEED_FORWARD, 16, 7).require_grad());
    show(
        "lora_linear 576 -> 1536, r 16, NF4",
        both(&x, |x| {
            let like = |leaf: &Tensor<2>| if x.is_autodiff() { leaf.clone() } else { leaf.clone().inner() };
            lora_linear(x.clone(), &weight, None, Adapter { a: like(&a), b: like(&b), scale: 2.0, dropout: None })
        }),
    );
    let gamma = Tensor::ones([HIDDEN], &Device::flex());
    show("rms_norm", both(&x, |x| rms_norm(x, gamma.clone(), 1e-5)));
    let table = RopeTable::new(&numbers(32, 8), 1.0, TOKENS);
    let positions: Vec<u32> = (0..TOKENS as u32).collect();
    show("rope", both(&x, |x| rope(x, &table, &positions)));
    let up = random(TOKENS, FEED_FORWARD, 10).inner();
    for (name, activation) in [("swiglu", Activation::Silu), ("geglu", Activation::GeluTanh)] {
        show(name, both(&random(TOKENS, FEED_FORWARD, 11), |gate| glu(gate, up.clone(), activation)));
    }
    for (tokens, soft_cap) in [TOKENS, 2048].into_iter().flat_map(|tokens| [None, Some(50.0)].map(|cap| (tokens, cap)))
    {
        let segments = vec![Segment { q_start: 0, q_len: tokens, k_start: 0, k_len: tokens }];
        let layout =
            AttentionLayout { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, soft_cap, window: None, segments };
        let (k, v) = (random(tokens, 192, 12).inner(), random(tokens, 192, 13).inner());
        let capped = if soft_cap.is_some() { ", capped" } else { "" };
        let name = format!("attention, {tokens} tokens{capped}");
        show(&name, both(&random(tokens, HIDDEN, 14), |q| attention(q, k.clone(), v.clone(), &layout)));
    }
    let head = Head { weight: HeadWeight::Frozen(stored(Format::Bf16, VOCABULARY, HIDDEN)), soft_cap: None };
    let targets: Vec<i32> = (0..TOKENS as i32).collect();
    let loss = |x: Tensor<2>| linear_cross_entropy(x, head.clone(), &targets);
    let (without, with) = (best(|| loss(x.clone().inner())), best(|| loss(x.clone().detach().require_grad())));
    println!("  linear_cross_entropy, vocabulary {VOCABULARY}: {without:.1} without gradient, {with:.1} with");
}

fn main() {
    // On a rayon thread, as in training.
    rayon::scope(|_| {
        products();
        operations();
    });
}

//! One decoder block with LoRA adapters, forward and backward, in six variants: milliseconds and saved memory of each.
//! [ADR 12](../../../docs/adr/0012-saved-activations.md) has the table and the decision.
//!
//! Checks first that all variants compute the same gradients, then measures them in turn.
//! `cargo bench -p tonfall-kernels --bench decoder_block`, with `TOKENS` (256), `SHAPE` (`smollm2`, or `llama` for
//! Llama-3.2-1B), `BLOCKS` (12) and `ROUNDS` (7) in the environment. Linux only: it reads `/proc/self/statm`.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use tonfall_blocks::Format;
use tonfall_kernels::philox::Philox;
use tonfall_kernels::{
    Activation, Adapter, AttentionLayout, FrozenMatrix, Rematerialized, RopeTable, Segment, attention,
    forward_backward, glu, lora_linear, lora_linear_with_cotangent, release_idle, rms_norm, rope, with_cotangent,
};

const EPSILON: f64 = 1e-5;
const SCALE: f32 = 2.0;

/// Numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut generator = Philox::new(seed, 0);
    (0..len).map(|_| 2.0 * generator.uniform() - 1.0).collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff())
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().expect("f32")
}

#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    hidden: usize,
    ff: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rank: usize,
}

/// Adapted matrices: q, k, v, o, gate, up, down.
const SITES: usize = 7;

/// A block's frozen NF4 weights and its adapters.
struct Block {
    weights: [FrozenMatrix; SITES],
    /// The same weights, dequantized to f32.
    dense: [Tensor<2>; SITES],
    gammas: [Tensor<1>; 2],
    /// `A` and `B` of each site.
    adapters: [[Tensor<2>; 2]; SITES],
    rope: RopeTable,
    positions: Vec<u32>,
    layout: AttentionLayout,
}

impl Block {
    fn new(shape: Shape) -> Self {
        let Shape { tokens, hidden, ff, heads, kv_heads, head_dim, rank } = shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let sizes = [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (ff, hidden), (ff, hidden), (hidden, ff)];
        let small = |rows: usize, cols: usize, seed| {
            let values = numbers(rows * cols, seed).into_iter().map(|value| value / (cols as f32).sqrt()).collect();
            tensor::<2>(values, [rows, cols]).inner()
        };
        let adapter = |(rows, cols): (usize, usize)| [small(rank, cols, 3), small(rows, rank, 4)];
        let pairs = sizes.map(|(rows, cols)| {
            let values: Vec<f32> =
                values(&small(rows, cols, rows as u64)).into_iter().map(|value| 2.0 * value).collect();
            let bytes = tonfall_blocks::quantize_nf4(&values);
            let mut dense = vec![0.0; rows * cols];
            tonfall_blocks::dequantize(Format::Nf4, &bytes, rows, cols, 0, &mut dense);
            let weight = FrozenMatrix::new(bytes, Format::Nf4, rows, cols, &Device::flex());
            (weight, tensor::<2>(dense, [rows, cols]).inner())
        });
        let inv_freq: Vec<f32> = (0..head_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
        let segments = vec![Segment { q_start: 0, q_len: tokens, k_start: 0, k_len: tokens }];
        let scale = (head_dim as f32).sqrt().recip();
        Self {
            weights: pairs.each_ref().map(|(weight, _)| weight.clone()),
            dense: pairs.map(|(_, dense)| dense),
            gammas: [5, 6].map(|seed| tensor::<1>(numbers(hidden, seed), [hidden]).inner() + 1.5),
            adapters: sizes.map(adapter),
            rope: RopeTable::new(&inv_freq, 1.0, tokens),
            positions: (0..tokens as u32).collect(),
            layout: AttentionLayout { heads, kv_heads, head_dim, scale, soft_cap: None, window: None, segments },
        }
    }

    /// The adapters as leaves of an autodiff graph.
    fn tracked(&self) -> [[Tensor<2>; 2]; SITES] {
        self.adapters.each_ref().map(|pair| pair.each_ref().map(|tensor| tensor.clone().autodiff().require_grad()))
    }
}

/// Gradients of a block's input and of its adapters.
struct Gradients {
    dx: Tensor<2>,
    adapters: [[Tensor<2>; 2]; SITES],
}

fn adapter([a, b]: &[Tensor<2>; 2]) -> Adapter {
    Adapter { a: a.clone(), b: b.clone(), scale: SCALE, dropout: None }
}

// ---- With autodiff ----------------------------------------------------------------------------------------------------

/// The block in Burn's own operations on dense weights.
fn plain(block: &Block, x: Tensor<2>, leaves: &[[Tensor<2>; 2]; SITES]) -> Tensor<2> {
    let AttentionLayout { heads, kv_heads, head_dim, scale, .. } = block.layout;
    let [tokens, _] = x.dims();
    let linear = |x: Tensor<2>, site: usize| {
        let [a, b] = leaves[site].clone();
        x.clone().matmul(block.dense[site].clone().autodiff().transpose())
            + x.matmul(a.transpose()).matmul(b.transpose()).mul_scalar(SCALE)
    };
    let norm = |x: Tensor<2>, which: usize| {
        let mean = x.clone().powf_scalar(2.0).mean_dim(1);
        x / (mean + EPSILON).sqrt() * block.gammas[which].clone().autodiff().unsqueeze()
    };
    let angles: Vec<f32> = (0..tokens)
        .flat_map(|t| {
            (0..head_dim).map(move |i| t as f32 * 10_000f32.powf(-2.0 * (i % (head_dim / 2)) as f32 / head_dim as f32))
        })
        .collect();
    let turn = |function: fn(f32) -> f32| {
        tensor::<3>(angles.iter().map(|angle| function(*angle)).collect(), [1, tokens, head_dim])
    };
    let (cos, sin) = (turn(f32::cos), turn(f32::sin));
    let by_head = |x: Tensor<2>, heads: usize| x.reshape([tokens, heads, head_dim]).swap_dims(0, 1);
    let rotated = |x: Tensor<3>| {
        let half = head_dim / 2;
        let turned = Tensor::cat(vec![x.clone().narrow(2, half, half).neg(), x.clone().narrow(2, 0, half)], 2);
        x * cos.clone() + turned * sin.clone()
    };
    let shared = |x: Tensor<3>| {
        let heads = (0..heads).map(|head| x.clone().narrow(0, head / (heads / kv_heads), 1)).collect();
        Tensor::cat(heads, 0)
    };
    let n = norm(x.clone(), 0);
    let (q, k) = (rotated(by_head(linear(n.clone(), 0), heads)), rotated(by_head(linear(n.clone(), 1), kv_heads)));
    let v = shared(by_head(linear(n, 2), kv_heads));
    let mask = (0..tokens * tokens).map(|i| if i % tokens > i / tokens { -1e30 } else { 0.0 }).collect();
    let scores = q.matmul(shared(k).swap_dims(1, 2)).mul_scalar(scale) + tensor::<3>(mask, [1, tokens, tokens]);
    let seen = burn::tensor::activation::softmax(scores, 2).matmul(v);
    let x = x + linear(seen.swap_dims(0, 1).reshape([tokens, heads * head_dim]), 3);
    let n = norm(x.clone(), 1);
    let gated = burn::tensor::activation::silu(linear(n.clone(), 4)) * linear(n, 5);
    x + linear(gated, 6)
}

/// The residual stream after attention, and the input of `down_proj`, with this crate's operations.
fn halves(
    block: &Block,
    x: Tensor<2>,
    adapters: &[[Tensor<2>; 2]; SITES],
    recompute: bool,
) -> (Tensor<2>, Rematerialized) {
    let linear = |x: Rematerialized, site: usize| lora_linear(x, &block.weights[site], None, adapter(&adapters[site]));
    let norm = |x: Tensor<2>, gamma: Tensor<1>| match recompute {
        true => Rematerialized::rms_norm(x, gamma, EPSILON),
        false => rms_norm(x, gamma, EPSILON).into(),
    };
    let turned = |x: Tensor<2>| rope(x, &block.rope, &block.positions);
    let [first, second] = block.gammas.clone();
    let n = norm(x.clone(), first);
    let (q, k, v) = (linear(n.clone(), 0), linear(n.clone(), 1), linear(n, 2));
    let x = x + linear(attention(turned(q), turned(k), v, &block.layout).into(), 3);
    let n = norm(x.clone(), second);
    let (gate, up) = (linear(n.clone(), 4), linear(n, 5));
    let gated = match recompute {
        true => Rematerialized::glu(gate, up, Activation::Silu),
        false => glu(gate, up, Activation::Silu).into(),
    };
    (x, gated)
}

fn with_our_operations(block: &Block, x: Tensor<2>, adapters: &[[Tensor<2>; 2]; SITES], recompute: bool) -> Tensor<2> {
    let (x, gated) = halves(block, x, adapters, recompute);
    x + lora_linear(gated, &block.weights[6], None, adapter(&adapters[6]))
}

/// Runs the backward pass from a scalar and collects the gradients of these leaves.
fn backward(scalar: Tensor<1>, x: &Tensor<2>, leaves: &[[Tensor<2>; 2]; SITES]) -> Gradients {
    let gradients = scalar.backward();
    let of = |leaf: &Tensor<2>| leaf.grad(&gradients).expect("a leaf");
    Gradients { dx: of(x), adapters: leaves.each_ref().map(|pair| pair.each_ref().map(of)) }
}

// ---- By hand ------------------------------------------------------------------------------------------------------------

/// Activations saved for the backward pass of a block.
struct Saved {
    x: Tensor<2>,
    middle: Tensor<2>,
    qkv: [Tensor<2>; 3],
    /// The output of attention, and the log-sum-exp of its scores.
    seen: (Tensor<2>, Tensor<2>),
    gate: Tensor<2>,
    up: Tensor<2>,
    /// `x·Aᵀ` of each site.
    low: [Tensor<2>; SITES],
    /// Both norms and the gated values, unless they are recomputed.
    inputs: Option<[Tensor<2>; 3]>,
}

impl Block {
    fn norm(&self, x: &Tensor<2>, which: usize) -> Tensor<2> {
        rms_norm(x.clone(), self.gammas[which].clone(), EPSILON)
    }

    fn forward(&self, x: Tensor<2>, save_inputs: bool) -> (Tensor<2>, Saved) {
        let mut low = Vec::new();
        let mut linear = |x: &Tensor<2>, site: usize| {
            let (y, u) = forward_backward::lora_linear(x.clone(), &self.weights[site], adapter(&self.adapters[site]));
            low.push(u);
            y
        };
        let turned = |x: Tensor<2>| rope(x, &self.rope, &self.positions);
        let first = self.norm(&x, 0);
        let (q, k, v) = (turned(linear(&first, 0)), turned(linear(&first, 1)), linear(&first, 2));
        let seen = forward_backward::attention(q.clone(), k.clone(), v.clone(), &self.layout);
        let middle = x.clone() + linear(&seen.0, 3);
        let second = self.norm(&middle, 1);
        let (gate, up) = (linear(&second, 4), linear(&second, 5));
        let gated = glu(gate.clone(), up.clone(), Activation::Silu);
        let y = middle.clone() + linear(&gated, 6);
        let low = low.try_into().unwrap_or_else(|_| unreachable!("seven sites"));
        let inputs = save_inputs.then_some([first, second, gated]);
        (y, Saved { x, middle, qkv: [q, k, v], seen, gate, up, low, inputs })
    }

    fn backward(&self, dy: Tensor<2>, saved: Saved) -> Gradients {
        let Saved { x, middle, qkv, seen, gate, up, low, inputs } = saved;
        let [first, second, gated] = match inputs {
            Some(inputs) => inputs.map(Some),
            None => [None, None, None],
        };
        let mut adapters: [Option<[Tensor<2>; 2]>; SITES] = Default::default();
        let mut linear = |dy: Tensor<2>, x: &Tensor<2>, site: usize| {
            let (weight, adapter) = (&self.weights[site], adapter(&self.adapters[site]));
            let (dx, gradients) =
                forward_backward::lora_linear_backward(dy, x.clone(), low[site].clone(), weight, adapter);
            adapters[site] = Some(gradients);
            dx
        };
        let norm_backward = |dy: Tensor<2>, x: &Tensor<2>, which: usize| {
            forward_backward::rms_norm_backward(dy, x.clone(), self.gammas[which].clone(), EPSILON)
        };
        let turned_back = |dy: Tensor<2>| forward_backward::rope_backward(dy, &self.rope, &self.positions);

        let gated = gated.unwrap_or_else(|| glu(gate.clone(), up.clone(), Activation::Silu));
        let dgated = linear(dy.clone(), &gated, 6);
        drop(gated);
        let [dgate, dup] = forward_backward::glu_backward(dgated, gate, up, Activation::Silu);
        let second = second.unwrap_or_else(|| self.norm(&middle, 1));
        let dsecond = linear(dgate, &second, 4) + linear(dup, &second, 5);
        let dmiddle = dy + norm_backward(dsecond, &middle, 1);

        let dseen = linear(dmiddle.clone(), &seen.0, 3);
        let [dq, dk, dv] = forward_backward::attention_backward(dseen, qkv, seen, &self.layout);
        let first = first.unwrap_or_else(|| self.norm(&x, 0));
        let dfirst = linear(turned_back(dq), &first, 0) + linear(turned_back(dk), &first, 1) + linear(dv, &first, 2);
        let dx = dmiddle + norm_backward(dfirst, &x, 0);
        Gradients { dx, adapters: adapters.map(|pair| pair.expect("every site was passed")) }
    }
}

// ---- The variants ---------------------------------------------------------------------------------------------------------

/// Forward and backward through `blocks` blocks with the same weights. Calls `between` after the forward pass.
type Variant = fn(&Block, usize, Tensor<2>, Tensor<2>, &mut dyn FnMut()) -> Gradients;

const VARIANTS: [(&str, Variant); 6] = [
    ("autodiff, Burn's operations, dense weights", |block, blocks, x, dy, between| {
        let (leaves, input) = (block.tracked(), x.autodiff().require_grad());
        let y = (0..blocks).fold(input.clone(), |x, _| plain(block, x, &leaves));
        between();
        backward(with_cotangent(y, dy), &input, &leaves)
    }),
    ("autodiff, our operations, all saved", |block, blocks, x, dy, between| {
        with_autodiff(block, blocks, x, dy, between, false)
    }),
    ("autodiff, our operations, norms and gate recomputed", |block, blocks, x, dy, between| {
        with_autodiff(block, blocks, x, dy, between, true)
    }),
    ("autodiff, our operations, each block recomputed", |block, blocks, mut x, mut dy, between| {
        let mut inputs = Vec::new();
        for _ in 0..blocks {
            inputs.push(x.clone());
            x = with_our_operations(block, x, &block.adapters, false);
        }
        drop(x);
        between();
        let mut sums: Option<Gradients> = None;
        for input in inputs.into_iter().rev() {
            let (leaves, input) = (block.tracked(), input.autodiff().require_grad());
            let (x, gated) = halves(block, input.clone(), &leaves, false);
            let last = lora_linear_with_cotangent(gated, &block.weights[6], adapter(&leaves[6]), dy.clone());
            let gradients = backward(with_cotangent(x, dy) + last, &input, &leaves);
            dy = gradients.dx.clone();
            sums = Some(added(sums, gradients));
        }
        sums.expect("a block")
    }),
    ("by hand, all saved", |block, blocks, x, dy, between| by_hand(block, blocks, x, dy, between, true)),
    ("by hand, norms and gate recomputed", |block, blocks, x, dy, between| {
        by_hand(block, blocks, x, dy, between, false)
    }),
];

fn with_autodiff(
    block: &Block,
    blocks: usize,
    x: Tensor<2>,
    dy: Tensor<2>,
    between: &mut dyn FnMut(),
    recompute: bool,
) -> Gradients {
    let (leaves, input) = (block.tracked(), x.autodiff().require_grad());
    let y = (0..blocks).fold(input.clone(), |x, _| with_our_operations(block, x, &leaves, recompute));
    between();
    backward(with_cotangent(y, dy), &input, &leaves)
}

fn by_hand(
    block: &Block,
    blocks: usize,
    mut x: Tensor<2>,
    mut dy: Tensor<2>,
    between: &mut dyn FnMut(),
    save_inputs: bool,
) -> Gradients {
    let mut stack = Vec::new();
    for _ in 0..blocks {
        let (y, saved) = block.forward(x, save_inputs);
        stack.push(saved);
        x = y;
    }
    drop(x);
    between();
    let mut sums: Option<Gradients> = None;
    while let Some(saved) = stack.pop() {
        let gradients = block.backward(dy, saved);
        dy = gradients.dx.clone();
        sums = Some(added(sums, gradients));
    }
    sums.expect("a block")
}

/// Adds the adapters' gradients of one more block. The input's gradient is that of the later backward step.
fn added(sums: Option<Gradients>, one: Gradients) -> Gradients {
    let Some(sums) = sums else { return one };
    let mut other = sums.adapters.into_iter();
    let adapters = one.adapters.map(|[a, b]| {
        let [other_a, other_b] = other.next().expect("as many");
        [a + other_a, b + other_b]
    });
    Gradients { dx: one.dx, adapters }
}

fn input(shape: Shape, seed: u64) -> Tensor<2> {
    tensor::<2>(numbers(shape.tokens * shape.hidden, seed), [shape.tokens, shape.hidden]).inner()
}

// ---- Checks and measurements --------------------------------------------------------------------------------------------

/// Panics unless the largest difference is at most 1e-4 of the largest magnitude.
fn assert_close(got: &Tensor<2>, want: &Tensor<2>, what: &str) {
    let (got, want) = (values(got), values(want));
    let size = want.iter().fold(0.1f32, |size, value| size.max(value.abs()));
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-4 * size, "{what}: {got} for {want}");
    }
}

fn check_that_all_variants_agree() {
    for tokens in [2, 7, 33] {
        let shape = Shape { tokens, hidden: 48, ff: 80, heads: 6, kv_heads: 2, head_dim: 8, rank: 4 };
        let block = Block::new(shape);
        let run = |variant: &Variant| variant(&block, 2, input(shape, 1), input(shape, 2), &mut || ());
        let want = run(&VARIANTS[1].1);
        for (name, variant) in &VARIANTS {
            let got = run(variant);
            assert_close(&got.dx, &want.dx, &format!("{name}, {tokens} tokens, input"));
            for (site, (got, want)) in got.adapters.iter().zip(&want.adapters).enumerate() {
                for (got, want) in got.iter().zip(want) {
                    assert_close(got, want, &format!("{name}, {tokens} tokens, site {site}"));
                }
            }
        }
    }
}

/// This process's resident memory, in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("statm");
    pages * 4096.0 / (1 << 20) as f64
}

fn measure() {
    let setting =
        |name: &str, default: usize| std::env::var(name).map_or(default, |value| value.parse().expect("a number"));
    let (tokens, blocks, rounds) = (setting("TOKENS", 256), setting("BLOCKS", 12), setting("ROUNDS", 7));
    let shape = match std::env::var("SHAPE").as_deref() {
        Ok("llama") => Shape { tokens, hidden: 2048, ff: 8192, heads: 32, kv_heads: 8, head_dim: 64, rank: 16 },
        _ => Shape { tokens, hidden: 576, ff: 1536, heads: 9, kv_heads: 3, head_dim: 64, rank: 16 },
    };
    let block = Block::new(shape);
    let (x, dy) = (input(shape, 1), input(shape, 2));
    let mut times = vec![Vec::new(); VARIANTS.len()];
    let mut saved = vec![0.0; VARIANTS.len()];
    for round in 0..=rounds {
        for (which, (_, variant)) in VARIANTS.iter().enumerate() {
            release_idle();
            let before = resident();
            let start = Instant::now();
            let gradients = variant(&block, blocks, x.clone(), dy.clone(), &mut || {
                if round == 0 {
                    release_idle();
                    saved[which] = resident() - before;
                }
            });
            let seconds = start.elapsed().as_secs_f64();
            assert!(values(&gradients.dx).iter().all(|value| value.is_finite()));
            if round > 0 {
                times[which].push(seconds);
            }
        }
    }
    println!("{tokens} tokens, {blocks} blocks of {}, median of {rounds} rounds", shape.hidden);
    for (((name, _), times), saved) in VARIANTS.iter().zip(&mut times).zip(saved) {
        times.sort_by(f64::total_cmp);
        let each = times[rounds / 2] * 1e3 / blocks as f64;
        println!("{name:<53} {each:7.2} ms and {:7.2} MiB saved per block", saved / blocks as f64);
    }
}

fn main() {
    check_that_all_variants_agree();
    measure();
}

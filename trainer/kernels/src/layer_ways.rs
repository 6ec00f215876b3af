//! One decoder block with adapters, forward and backward, in each of the ways in which it could be done: that they agree, and
//! what each costs. [ADR 12](../../../docs/adr/0012-what-a-block-keeps.md) has the table and what follows from it.
//!
//! `cargo test --release --workspace --lib -- --ignored --nocapture ways_of_a_block`, which asks for `TOKENS` (256), `SHAPE`
//! (`smollm2`, or `llama`, Llama-3.2-1B's) and `BLOCKS` (12) in the environment.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use tonfall_blocks::Format;

use crate::attention::AttentionOps;
use crate::cheap::Given;
use crate::glu::GluOps;
use crate::lora::{LoraBackward, LoraOps};
use crate::op::Dispatch;
use crate::rms_norm::RmsNormOps;
use crate::rope::RopeOps;
use crate::testing::{assert_close, numbers, tensor, values};
use crate::{
    Activation, Adapter, AttentionLayout, Cheap, FrozenMatrix, RopeTable, Segment, attention, glu, lora_linear,
    rms_norm, rope, seed, seed_lora_linear,
};

const EPSILON: f64 = 1e-5;
const SCALE: f32 = 2.0;

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

/// q, k, v, o, gate, up, down.
const SITES: usize = 7;

/// A block's weights, which are frozen, and its adapters.
struct Block {
    weights: [FrozenMatrix; SITES],
    /// The same, dense.
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

    /// The adapters as leaves of a tape.
    fn tracked(&self) -> [[Tensor<2>; 2]; SITES] {
        self.adapters.each_ref().map(|pair| pair.each_ref().map(|tensor| tensor.clone().autodiff().require_grad()))
    }
}

/// Gradients of a block's input and of its adapters.
struct Pulled {
    dx: Tensor<2>,
    adapters: [[Tensor<2>; 2]; SITES],
}

fn adapter([a, b]: &[Tensor<2>; 2]) -> Adapter {
    Adapter { a: a.clone(), b: b.clone(), scale: SCALE, dropout: None }
}

// ---- Under Burn's tape ------------------------------------------------------------------------------------------------

/// With Burn's own operations on dense weights.
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

/// A block's first half, and what its last product takes, with the operations of this crate.
fn halves(block: &Block, x: Tensor<2>, adapters: &[[Tensor<2>; 2]; SITES], again: bool) -> (Tensor<2>, Cheap) {
    let linear = |x: Cheap, site: usize| lora_linear(x, &block.weights[site], None, adapter(&adapters[site]));
    let norm = |x: Tensor<2>, gamma: Tensor<1>| match again {
        true => Cheap::rms_norm(x, gamma, EPSILON),
        false => rms_norm(x, gamma, EPSILON).into(),
    };
    let turned = |x: Tensor<2>| rope(x, &block.rope, &block.positions);
    let [first, second] = block.gammas.clone();
    let n = norm(x.clone(), first);
    let (q, k, v) = (linear(n.clone(), 0), linear(n.clone(), 1), linear(n, 2));
    let x = x + linear(attention(turned(q), turned(k), v, &block.layout).into(), 3);
    let n = norm(x.clone(), second);
    let (gate, up) = (linear(n.clone(), 4), linear(n, 5));
    let gated = match again {
        true => Cheap::glu(gate, up, Activation::Silu),
        false => glu(gate, up, Activation::Silu).into(),
    };
    (x, gated)
}

fn with_our_operations(block: &Block, x: Tensor<2>, adapters: &[[Tensor<2>; 2]; SITES], again: bool) -> Tensor<2> {
    let (x, gated) = halves(block, x, adapters, again);
    x + lora_linear(gated, &block.weights[6], None, adapter(&adapters[6]))
}

/// Gradients of a tape that begins at these leaves, from a scalar on it.
fn pull(scalar: Tensor<1>, x: &Tensor<2>, leaves: &[[Tensor<2>; 2]; SITES]) -> Pulled {
    let gradients = scalar.backward();
    let of = |leaf: &Tensor<2>| leaf.grad(&gradients).expect("a leaf");
    Pulled { dx: of(x), adapters: leaves.each_ref().map(|pair| pair.each_ref().map(of)) }
}

// ---- By hand ------------------------------------------------------------------------------------------------------------

/// What a block leaves for its backward pass. The outputs of norms and of the gate are kept too, or made again.
struct Kept {
    x: Tensor<2>,
    middle: Tensor<2>,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    seen: Tensor<2>,
    normalisers: Tensor<2>,
    gate: Tensor<2>,
    up: Tensor<2>,
    low: [Tensor<2>; SITES],
    /// Both norms, and the gated values.
    cheap: Option<[Tensor<2>; 3]>,
}

impl Block {
    fn norm(&self, x: &Tensor<2>, which: usize) -> Tensor<2> {
        rms_norm(x.clone(), self.gammas[which].clone(), EPSILON)
    }

    fn turn(&self, x: Tensor<2>, back: bool) -> Tensor<2> {
        let angles = self.rope.up_to(self.positions.len());
        let turned = <Dispatch as RopeOps>::rotate(x.into_dispatch(), angles, self.positions.as_slice().into(), back);
        Tensor::from_dispatch(turned)
    }

    fn by_hand(&self, x: Tensor<2>, keep_cheap: bool) -> (Tensor<2>, Kept) {
        let mut low = Vec::new();
        let mut linear = |x: &Tensor<2>, site: usize| {
            let (weight, adapter) = (&self.weights[site], adapter(&self.adapters[site]));
            let settings = adapter.settings(weight);
            let [x, a, b] = [x.clone(), adapter.a, adapter.b].map(Tensor::into_dispatch);
            let weight = weight.data().clone().into_dispatch();
            let (y, u) = <Dispatch as LoraOps>::lora(Given::Kept { value: x }, weight, a, b, settings);
            low.push(Tensor::from_dispatch(u));
            Tensor::<2>::from_dispatch(y)
        };
        let first = self.norm(&x, 0);
        let (q, k, v) = (linear(&first, 0), linear(&first, 1), linear(&first, 2));
        let (q, k) = (self.turn(q, false), self.turn(k, false));
        let inputs = [&q, &k, &v].map(|tensor| tensor.clone().into_dispatch());
        let [tq, tk, tv] = inputs;
        let (seen, normalisers) =
            <Dispatch as AttentionOps>::segment_attention(tq, tk, tv, Arc::new(self.layout.clone()));
        let (seen, normalisers) = (Tensor::<2>::from_dispatch(seen), Tensor::from_dispatch(normalisers));
        let middle = x.clone() + linear(&seen, 3);
        let second = self.norm(&middle, 1);
        let (gate, up) = (linear(&second, 4), linear(&second, 5));
        let gated = glu(gate.clone(), up.clone(), Activation::Silu);
        let y = middle.clone() + linear(&gated, 6);
        let low = low.try_into().unwrap_or_else(|_| unreachable!("seven sites"));
        let cheap = keep_cheap.then_some([first, second, gated]);
        (y, Kept { x, middle, q, k, v, seen, normalisers, gate, up, low, cheap })
    }

    fn back(&self, dy: Tensor<2>, kept: Kept) -> Pulled {
        let Kept { x, middle, q, k, v, seen, normalisers, gate, up, low, cheap } = kept;
        let [first, second, gated] = match cheap {
            Some(cheap) => cheap.map(Some),
            None => [None, None, None],
        };
        let mut adapters: [Option<[Tensor<2>; 2]>; SITES] = Default::default();
        let mut linear = |dy: Tensor<2>, x: &Tensor<2>, site: usize| {
            let (weight, adapter) = (&self.weights[site], adapter(&self.adapters[site]));
            let how = LoraBackward { settings: adapter.settings(weight), input_gradient: true };
            let [dy, x, u, a, b] = [dy, x.clone(), low[site].clone(), adapter.a, adapter.b].map(Tensor::into_dispatch);
            let weight = weight.data().clone().into_dispatch();
            let (dx, da, db) = <Dispatch as LoraOps>::lora_backward(dy, x, u, weight, a, b, how);
            adapters[site] = Some([Tensor::from_dispatch(da), Tensor::from_dispatch(db)]);
            Tensor::<2>::from_dispatch(dx)
        };
        let norm_back = |dy: Tensor<2>, x: &Tensor<2>, which: usize| {
            let [dy, x] = [dy, x.clone()].map(Tensor::into_dispatch);
            let gamma = self.gammas[which].clone().into_dispatch();
            Tensor::<2>::from_dispatch(<Dispatch as RmsNormOps>::rms_norm_input_gradient(dy, x, gamma, EPSILON))
        };

        let gated = gated.unwrap_or_else(|| glu(gate.clone(), up.clone(), Activation::Silu));
        let dgated = linear(dy.clone(), &gated, 6);
        drop(gated);
        let [dgated, gate, up] = [dgated, gate, up].map(Tensor::into_dispatch);
        let (dgate, dup) = <Dispatch as GluOps>::glu_backward(dgated, gate, up, Activation::Silu);
        let second = second.unwrap_or_else(|| self.norm(&middle, 1));
        let dsecond = linear(Tensor::from_dispatch(dgate), &second, 4) + linear(Tensor::from_dispatch(dup), &second, 5);
        let dmiddle = dy + norm_back(dsecond, &middle, 1);

        let dseen = linear(dmiddle.clone(), &seen, 3);
        let [dseen, q, k, v, seen, normalisers] = [dseen, q, k, v, seen, normalisers].map(Tensor::into_dispatch);
        let layout = Arc::new(self.layout.clone());
        let (dq, dk, dv) =
            <Dispatch as AttentionOps>::segment_attention_backward(dseen, q, k, v, seen, normalisers, layout);
        let [dq, dk, dv] = [dq, dk, dv].map(Tensor::<2>::from_dispatch);
        let first = first.unwrap_or_else(|| self.norm(&x, 0));
        let dfirst =
            linear(self.turn(dq, true), &first, 0) + linear(self.turn(dk, true), &first, 1) + linear(dv, &first, 2);
        let dx = dmiddle + norm_back(dfirst, &x, 0);
        Pulled { dx, adapters: adapters.map(|pair| pair.expect("every site was passed")) }
    }
}

// ---- What they are compared by --------------------------------------------------------------------------------------------

/// A pass over so many blocks with the same weights; calls `between` where the forward pass has ended.
type Way = fn(&Block, usize, Tensor<2>, Tensor<2>, &mut dyn FnMut()) -> Pulled;

const WAYS: [(&str, Way); 6] = [
    ("plain autodiff, Burn's operations, dense", |block, blocks, x, dy, between| {
        let (leaves, input) = (block.tracked(), x.autodiff().require_grad());
        let y = (0..blocks).fold(input.clone(), |x, _| plain(block, x, &leaves));
        between();
        pull(seed(y, dy), &input, &leaves)
    }),
    ("autodiff, our operations, everything kept", |block, blocks, x, dy, between| {
        taped(block, blocks, x, dy, between, false)
    }),
    ("autodiff, our operations, norms and gate again", |block, blocks, x, dy, between| {
        taped(block, blocks, x, dy, between, true)
    }),
    ("autodiff, our operations, block by block again", |block, blocks, mut x, mut dy, between| {
        let mut inputs = Vec::new();
        for _ in 0..blocks {
            inputs.push(x.clone());
            x = with_our_operations(block, x, &block.adapters, false);
        }
        drop(x);
        between();
        let mut sums: Option<Pulled> = None;
        for input in inputs.into_iter().rev() {
            let (leaves, input) = (block.tracked(), input.autodiff().require_grad());
            let (x, gated) = halves(block, input.clone(), &leaves, false);
            let last = seed_lora_linear(gated, &block.weights[6], adapter(&leaves[6]), dy.clone());
            let pulled = pull(seed(x, dy) + last, &input, &leaves);
            dy = pulled.dx.clone();
            sums = Some(added(sums, pulled));
        }
        sums.expect("a block")
    }),
    ("by hand, everything kept", |block, blocks, x, dy, between| hand(block, blocks, x, dy, between, true)),
    ("by hand, norms and gate again", |block, blocks, x, dy, between| hand(block, blocks, x, dy, between, false)),
];

fn taped(block: &Block, blocks: usize, x: Tensor<2>, dy: Tensor<2>, between: &mut dyn FnMut(), again: bool) -> Pulled {
    let (leaves, input) = (block.tracked(), x.autodiff().require_grad());
    let y = (0..blocks).fold(input.clone(), |x, _| with_our_operations(block, x, &leaves, again));
    between();
    pull(seed(y, dy), &input, &leaves)
}

fn hand(
    block: &Block,
    blocks: usize,
    mut x: Tensor<2>,
    mut dy: Tensor<2>,
    between: &mut dyn FnMut(),
    all: bool,
) -> Pulled {
    let mut left = Vec::new();
    for _ in 0..blocks {
        let (y, kept) = block.by_hand(x, all);
        left.push(kept);
        x = y;
    }
    drop(x);
    between();
    let mut sums: Option<Pulled> = None;
    while let Some(kept) = left.pop() {
        let pulled = block.back(dy, kept);
        dy = pulled.dx.clone();
        sums = Some(added(sums, pulled));
    }
    sums.expect("a block")
}

/// The gradients of the adapters so far and of one block more, and that of the last one's input.
fn added(sums: Option<Pulled>, one: Pulled) -> Pulled {
    let Some(sums) = sums else { return one };
    let mut other = sums.adapters.into_iter();
    let adapters = one.adapters.map(|[a, b]| {
        let [other_a, other_b] = other.next().expect("as many");
        [a + other_a, b + other_b]
    });
    Pulled { dx: one.dx, adapters }
}

fn input(shape: Shape, seed: u64) -> Tensor<2> {
    tensor::<2>(numbers(shape.tokens * shape.hidden, seed), [shape.tokens, shape.hidden]).inner()
}

#[test]
fn every_way_gives_the_same_gradients() {
    for tokens in [2, 7, 33] {
        let shape = Shape { tokens, hidden: 48, ff: 80, heads: 6, kv_heads: 2, head_dim: 8, rank: 4 };
        let block = Block::new(shape);
        let run = |way: &Way| way(&block, 2, input(shape, 1), input(shape, 2), &mut || ());
        let want = run(&WAYS[1].1);
        for (name, way) in &WAYS {
            let got = run(way);
            assert_close(&values(&got.dx), &values(&want.dx), 1e-4, &format!("{name}, {tokens} tokens, input"));
            for (site, (got, want)) in got.adapters.iter().zip(&want.adapters).enumerate() {
                for (got, want) in got.iter().zip(want) {
                    assert_close(&values(got), &values(want), 1e-4, &format!("{name}, {tokens} tokens, site {site}"));
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

#[test]
#[ignore = "a measurement, of minutes"]
#[expect(clippy::print_stdout, reason = "it prints its figures")]
fn ways_of_a_block() {
    let ask = |name: &str, usual: usize| std::env::var(name).map_or(usual, |value| value.parse().expect("a number"));
    let (tokens, blocks, rounds) = (ask("TOKENS", 256), ask("BLOCKS", 12), ask("ROUNDS", 7));
    let shape = match std::env::var("SHAPE").as_deref() {
        Ok("llama") => Shape { tokens, hidden: 2048, ff: 8192, heads: 32, kv_heads: 8, head_dim: 64, rank: 16 },
        _ => Shape { tokens, hidden: 576, ff: 1536, heads: 9, kv_heads: 3, head_dim: 64, rank: 16 },
    };
    let block = Block::new(shape);
    let (x, dy) = (input(shape, 1), input(shape, 2));
    // On one of the threads that compute, as training is. The ways take turns.
    let mut times = vec![Vec::new(); WAYS.len()];
    let mut kept = vec![0.0; WAYS.len()];
    for round in 0..=rounds {
        for (which, (_, way)) in WAYS.iter().enumerate() {
            crate::release_idle();
            let before = resident();
            let start = Instant::now();
            let pulled = way(&block, blocks, x.clone(), dy.clone(), &mut || {
                if round == 0 {
                    crate::release_idle();
                    kept[which] = resident() - before;
                }
            });
            let seconds = start.elapsed().as_secs_f64();
            assert!(values(&pulled.dx).iter().all(|value| value.is_finite()));
            if round > 0 {
                times[which].push(seconds);
            }
        }
    }
    println!("{tokens} tokens, {blocks} blocks of {}, median of {rounds} rounds", shape.hidden);
    for (((name, _), times), kept) in WAYS.iter().zip(&mut times).zip(kept) {
        times.sort_by(f64::total_cmp);
        let each = times[rounds / 2] * 1e3 / blocks as f64;
        println!("{name:<50} {each:7.2} ms a block {:7.2} MiB kept a block", kept / blocks as f64);
    }
}

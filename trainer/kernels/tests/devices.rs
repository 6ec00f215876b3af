//! Compares values and gradients of every operation on a GPU with those on the CPU.
//!
//! Needs the feature `cuda` or `vulkan`, and `TONFALL_TEST_DEVICE=cuda` or `vulkan`; software Vulkan is enough. Run each test
//! in its own process (`cargo nextest --run-ignored all`), since a crash of a driver ends the process. Other tests compare the
//! CPU operations with PyTorch and finite differences.
//!
//! With `TONFALL_TEST_DEVICE=stand-in` the CUDA driver is the stub in `tests/stand_in`, which runs no kernels. Then every kernel
//! must compile, and its launch dimensions must be valid for the GPU. Values are not compared.
#![cfg(feature = "cube")]

use burn::tensor::{DType, Device, DeviceType, Tensor, TensorData};
use tonfall_kernels::philox::Philox;
use tonfall_kernels::{
    Activation, AdamW, Adapter, AttentionLayout, Dropout, Format, FrozenMatrix, Head, HeadWeight, HostStack, HostTable,
    IGNORED, Moment8, Moments, RopeTable, Segment, Update, attention, copied, embedding, glu, linear,
    linear_cross_entropy, lora_linear, lora_linear_with_cotangent, norm, rms_norm_heads, rope, soft_cap, square_sums,
    token_losses, trainable_embedding, trainable_linear, update, with_cotangent,
};

/// The device under test.
fn gpu() -> Device {
    let name = std::env::var("TONFALL_TEST_DEVICE").expect("set TONFALL_TEST_DEVICE to cuda or vulkan");
    let devices = match name.as_str() {
        #[cfg(feature = "cuda")]
        "cuda" | "stand-in" => Device::enumerate(DeviceType::Cuda),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::enumerate(DeviceType::Vulkan),
        other => panic!("this build has no device `{other}`"),
    };
    devices.into_iter().next().unwrap_or_else(|| panic!("this machine has no {name} device"))
}

/// Whether the device under test runs kernels.
fn computes() -> bool {
    std::env::var("TONFALL_TEST_DEVICE").as_deref() != Ok("stand-in")
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut generator = Philox::new(seed, 0);
    (0..len).map(|_| 2.0 * generator.uniform() - 1.0).collect()
}

/// An input: values and shape.
type Input = (Vec<f32>, [usize; 2]);

fn input(rows: usize, columns: usize, seed: u64) -> Input {
    (numbers(rows * columns, seed), [rows, columns])
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().expect("f32")
}

/// An operation on tensors with the values of the inputs. The dtype is that of the activations.
type Operation<'a> = &'a dyn Fn(&Device, DType, Vec<Tensor<2>>) -> Tensor<2>;

/// Output and gradients of an operation on one device in one dtype, for a fixed random cotangent.
fn run(op: Operation<'_>, inputs: &[Input], device: &Device, dtype: DType) -> Vec<Vec<f32>> {
    let tracked = device.clone().autodiff();
    let leaf = |(values, shape): &Input| {
        Tensor::<2>::from_data(TensorData::new(values.clone(), *shape), &tracked).cast(dtype).detach().require_grad()
    };
    let tensors: Vec<Tensor<2>> = inputs.iter().map(leaf).collect();
    let output = op(&tracked, dtype, tensors.clone());
    let [rows, columns] = output.dims();
    let len = rows * columns;
    let weights = Tensor::<2>::from_data(TensorData::new(numbers(len, 99), [1, len]), &tracked);
    // Our own inner product, since Burn's sums and products crash some software drivers.
    let gradients = trainable_linear(output.clone().reshape([1, len]), weights, None).backward();
    let gradient = |tensor: &Tensor<2>| tensor.grad(&gradients).map_or_else(Vec::new, values);
    std::iter::once(values(output.inner())).chain(tensors.iter().map(gradient)).collect()
}

fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: elements");
    if !computes() {
        return;
    }
    let size = want.iter().fold(0.1f32, |size, value| size.max(value.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * size, "{what}: element {i} is {got}, not {want}");
    }
}

/// The dtypes in which the device computes, each with the largest error relative to the largest value.
fn types() -> Vec<(DType, f32)> {
    match std::env::var("TONFALL_TEST_DEVICE").as_deref() {
        Ok("cuda" | "stand-in") => vec![(DType::F32, 2e-4), (DType::BF16, 3e-2)],
        _ => vec![(DType::F32, 2e-5)],
    }
}

/// Asserts that output and gradients equal those of the CPU. The CPU gets inputs that are rounded to the dtype.
fn compare(what: &str, inputs: &[Input], op: impl Fn(&Device, DType, Vec<Tensor<2>>) -> Tensor<2>) {
    let device = gpu();
    for (dtype, tolerance) in types() {
        let round = |(numbers, shape): &Input| {
            let tensor = Tensor::<2>::from_data(TensorData::new(numbers.clone(), *shape), &Device::flex());
            (values(tensor.cast(dtype)), *shape)
        };
        let rounded: Vec<Input> = inputs.iter().map(round).collect();
        let want = run(&op, &rounded, &Device::flex(), DType::F32);
        let got = run(&op, &rounded, &device, dtype);
        for (part, (got, want)) in got.iter().zip(&want).enumerate() {
            let part = if part == 0 { "output".to_owned() } else { format!("gradient {part}") };
            assert_close(got, want, tolerance, &format!("{what}, {dtype:?}, {part}"));
        }
    }
}

/// The bytes of a matrix in a stored format.
fn stored_bytes(format: Format, rows: usize, cols: usize) -> Vec<u8> {
    match format {
        Format::F32 => numbers(rows * cols, 5).iter().flat_map(|value| value.to_le_bytes()).collect(),
        Format::Nf4 => tonfall_blocks::quantize_nf4(&numbers(rows * cols, 5)),
        // Any bytes are valid numbers in these formats. Cleared high bits keep the exponents small.
        _ => (0..tonfall_blocks::byte_len(format, rows, cols)).map(|i| (i * 29 % 251) as u8 & 0x3b).collect(),
    }
}

/// A matrix in a stored format, with the same bytes on every device.
fn stored(format: Format, rows: usize, cols: usize, device: &Device) -> FrozenMatrix {
    FrozenMatrix::new(stored_bytes(format, rows, cols), format, rows, cols, device)
}

/// Rows and columns: 1, odd sizes, sizes that fill vectors and planes exactly, and sizes that are off by one.
#[rustfmt::skip]
const SHAPES: [(usize, usize); 20] = [
    (1, 1), (1, 2), (1, 17), (1, 256), (2, 3), (2, 128), (3, 7), (3, 85), (4, 64), (5, 33),
    (7, 100), (16, 16), (16, 576), (17, 31), (33, 48), (64, 64), (65, 63), (70, 191), (129, 130), (200, 123),
];
/// Columns that every format can hold.
const WIDE: usize = 256;
const TOKENS: [usize; 5] = [1, 3, 17, 64, 130];

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn rms_norm_of_rows_and_heads() {
    for tokens in TOKENS {
        for (heads, n) in [(1, 1), (1, 17), (3, 64), (1, 576), (2, 33), (1, 1000)] {
            compare(&format!("{tokens}x{heads}x{n}"), &[input(tokens, heads * n, 1), input(1, n, 2)], |_, _, mut x| {
                let gamma = x.remove(1).reshape([n]);
                rms_norm_heads(x.remove(0), gamma, 1e-5)
            });
        }
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn rope_of_all_heads() {
    for tokens in TOKENS {
        for (heads, half) in [(1, 1), (3, 4), (9, 32), (2, 7), (1, 64)] {
            let inv_freq: Vec<f32> = (0..half).map(|i| 10000f32.powf(-(i as f32) / half as f32)).collect();
            let positions: Vec<u32> = (0..tokens as u32).map(|t| 7 + t * 3 % 170).collect();
            compare(&format!("{tokens}x{heads}x{half}"), &[input(tokens, heads * 2 * half, 1)], |_, _, mut x| {
                rope(x.remove(0), &RopeTable::new(&inv_freq, 1.25, 512), &positions)
            });
        }
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn glu_and_its_gradients() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        for (tokens, n) in TOKENS.into_iter().flat_map(|tokens| [1, 5, 64, 300, 1537].map(|n| (tokens, n))) {
            let wide: Vec<f32> = numbers(tokens * n, 1).iter().map(|value| 8.0 * value).collect();
            let what = format!("{activation:?} {tokens}x{n}");
            compare(&what, &[(wide, [tokens, n]), input(tokens, n, 2)], |_, _, mut x| {
                let up = x.remove(1);
                glu(x.remove(0), up, activation)
            });
        }
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn soft_caps_of_logits() {
    for (rows, columns) in SHAPES {
        let wide: Vec<f32> = numbers(rows * columns, 1).iter().map(|value| 100.0 * value).collect();
        let capped = |device: &Device| {
            let x = Tensor::<2>::from_data(TensorData::new(wide.clone(), [rows, columns]), device);
            values(soft_cap(x, 30.0))
        };
        assert_close(&capped(&gpu()), &capped(&Device::flex()), 1e-6, &format!("{rows}x{columns}"));
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn backward_passes_that_start_from_a_cotangent() {
    for (rows, columns) in SHAPES {
        let inputs = [input(rows, columns, 1), input(rows, columns, 2)];
        compare(&format!("{rows}x{columns}"), &inputs, |_, _, mut x| {
            let gradient = x.remove(1).inner();
            with_cotangent(x.remove(0), gradient).reshape([1, 1])
        });
        // A LoRA layer whose cotangent is known, so its output is not computed.
        let (rank, outputs) = (rows.min(16), columns);
        let inputs = [input(rows, WIDE, 1), input(rank, WIDE, 2), input(outputs, rank, 3), input(rows, outputs, 4)];
        compare(&format!("{rows}x{columns}, low rank"), &inputs, |device, _, mut x| {
            let gradient = x.remove(3).inner();
            let adapter = Adapter { b: x.remove(2), a: x.remove(1), scale: 0.5, dropout: None };
            let weight = stored(Format::Nf4, outputs, WIDE, device);
            lora_linear_with_cotangent(x.remove(0), &weight, adapter, gradient).reshape([1, 1])
        });
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn sums_of_squares() {
    let tensors = |device: &Device| {
        SHAPES.map(|(rows, columns)| {
            Tensor::<2>::from_data(TensorData::new(numbers(rows * columns, 1), [rows, columns]), device)
        })
    };
    let sums = |tensors: &[Tensor<2>]| {
        let sums = square_sums(&tensors.iter().collect::<Vec<_>>()).expect("tensors");
        [norm(&sums.into_data()) as f32]
    };
    let (got, want) = (tensors(&gpu()), tensors(&Device::flex()));
    for (place, (got, want)) in got.chunks(1).zip(want.chunks(1)).enumerate() {
        assert_close(&sums(got), &sums(want), 1e-6, &format!("{:?}", SHAPES[place]));
    }
    assert_close(&sums(&got), &sums(&want), 1e-6, "all of them");
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn embeddings_of_every_format_and_trained_ones() {
    let device = gpu();
    let ids = |len: usize, rows: usize| (0..len as u32).map(|i| i * i * 7 % rows as u32).collect::<Vec<_>>();
    let lengths = [1, 2, 3, 4, 5, 17, 33, 40, 65, 300];
    for format in Format::ALL {
        for (len, cols) in lengths.into_iter().flat_map(|len| [WIDE, 2 * WIDE].map(|cols| (len, cols))) {
            let ids = ids(len, 20);
            for (dtype, _) in types() {
                let what = format!("{len} ids, {format} of {cols} as {dtype:?}");
                let got = values(embedding(&ids, &stored(format, 20, cols, &device), dtype));
                let want = embedding(&ids, &stored(format, 20, cols, &Device::flex()), DType::F32);
                let want = values(want.cast(dtype));
                assert_close(&got, &want, 0.0, &what);
                if format != Format::Nf4 {
                    let table = HostTable::new(stored_bytes(format, 20, cols), format, 20, cols, &device);
                    assert_close(&values(table.embedding(&ids, dtype)), &want, 0.0, &format!("{what}, from the host"));
                }
            }
        }
    }
    for (rows, columns) in SHAPES {
        compare(&format!("trained {rows}x{columns}"), &[input(rows, columns, 1)], |_, dtype, mut x| {
            trainable_embedding(&ids(40, rows), x.remove(0), dtype)
        });
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn frozen_products_of_every_format() {
    for format in Format::ALL {
        for (tokens, rows) in TOKENS.into_iter().flat_map(|tokens| [1, 16, 33, 64].map(|rows| (tokens, rows))) {
            let columns = if rows % 2 == 0 { WIDE } else { 2 * WIDE };
            let what = format!("{format} {tokens}x{rows}x{columns}");
            compare(&what, &[input(tokens, columns, 1)], |device, _, mut x| {
                linear(x.remove(0), &stored(format, rows, columns, device), None)
            });
        }
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn frozen_products_with_a_bias() {
    for (tokens, rows) in SHAPES {
        compare(&format!("{tokens}x{rows}"), &[input(tokens, WIDE, 1), input(1, rows, 2)], |device, _, mut x| {
            let bias = x.remove(1).reshape([rows]);
            linear(x.remove(0), &stored(Format::Nf4, rows, WIDE, device), Some(bias))
        });
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn trained_products() {
    for tokens in TOKENS {
        for (rows, columns) in [(1, 1), (16, 33), (65, 64), (100, 130)] {
            let inputs = [input(tokens, columns, 1), input(rows, columns, 2)];
            compare(&format!("{tokens}x{rows}x{columns}"), &inputs, |_, _, mut x| {
                let w = x.remove(1);
                trainable_linear(x.remove(0), w, None)
            });
        }
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn adapters_with_and_without_dropout() {
    let shapes = [(1, 16, Format::Nf4), (16, 40, Format::Nf4), (8, 33, Format::Q4K), (64, 64, Format::F32)];
    for tokens in TOKENS {
        for (rank, rows, format) in shapes {
            for dropout in [None, Some(Dropout { p: 0.3, seed: 11 << 40 | 5, stream: 7 << 33 | 3 })] {
                let inputs = [input(tokens, WIDE, 1), input(rank, WIDE, 2), input(rows, rank, 3)];
                let what = format!("{tokens} tokens, rank {rank}, {format}, {dropout:?}");
                compare(&what, &inputs, |device, _, mut x| {
                    let adapter = Adapter { b: x.remove(2), a: x.remove(1), scale: 0.5, dropout };
                    lora_linear(x.remove(0), &stored(format, rows, WIDE, device), None, adapter)
                });
            }
        }
    }
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn cross_entropy_with_frozen_and_trained_heads() {
    for tokens in TOKENS {
        for (vocab, soft_cap) in
            [2, 33, 300, 1025].into_iter().flat_map(|vocab| [None, Some(1.5)].map(|cap| (vocab, cap)))
        {
            let head = |weight| Head { weight, soft_cap };
            let targets: Vec<i32> =
                (0..tokens).map(|t| if t % 5 == 3 { IGNORED } else { (t * 31 % vocab) as i32 }).collect();
            compare(
                &format!("{tokens}x{vocab}, frozen, {soft_cap:?}"),
                &[input(tokens, WIDE, 1)],
                |device, _, mut x| {
                    let head = head(HeadWeight::Frozen(stored(Format::Bf16, vocab, WIDE, device)));
                    linear_cross_entropy(x.remove(0), head, &targets).reshape([1, 1])
                },
            );
            let inputs = [input(tokens, 24, 1), input(vocab, 24, 2)];
            compare(&format!("{tokens}x{vocab}, trained, {soft_cap:?}"), &inputs, |_, _, mut x| {
                let head = head(HeadWeight::Trainable(x.remove(1)));
                linear_cross_entropy(x.remove(0), head, &targets).reshape([1, 1])
            });
        }
    }
    let x = |device: &Device| Tensor::<2>::from_data(TensorData::new(numbers(9 * WIDE, 1), [9, WIDE]), device);
    let losses = |device: &Device| {
        let weight = HeadWeight::Frozen(stored(Format::F32, 50, WIDE, device));
        let head = Head { weight, soft_cap: None };
        token_losses(x(device), head, &[1, 2, IGNORED, 4, 5, 49, 0, IGNORED, 8])
    };
    assert_close(&losses(&gpu()), &losses(&Device::flex()), 2e-4, "single losses");
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn attention_over_packed_sequences() {
    let sequence = |start, len| Segment { q_start: start, q_len: len, k_start: start, k_len: len };
    let cases: [(&str, Vec<Segment>, usize, usize); 6] = [
        ("one token", vec![sequence(0, 1)], 1, 1),
        ("one sequence", vec![sequence(0, 70)], 70, 70),
        ("three sequences", vec![sequence(0, 33), sequence(33, 1), sequence(34, 66)], 100, 100),
        ("rows in no sequence", vec![sequence(2, 20), sequence(30, 9)], 45, 45),
        ("continued", vec![Segment { q_start: 0, q_len: 5, k_start: 0, k_len: 37 }], 5, 37),
        ("longer than a block", vec![sequence(0, 600), sequence(600, 40)], 640, 640),
    ];
    for (what, segments, queries, keys) in cases {
        for (heads, kv_heads, head_dim) in
            [(1, 1, 1), (4, 2, 16), (9, 3, 32), (2, 2, 7), (4, 2, 64), (3, 1, 96), (2, 1, 128)]
        {
            let seen = [(None, None), (Some(1), None), (Some(19), None), (None, Some(0.8)), (Some(19), Some(2.0))];
            for (window, soft_cap) in seen {
                let segments = segments.clone();
                let layout = AttentionLayout { heads, kv_heads, head_dim, scale: 0.3, soft_cap, window, segments };
                let kv = |seed| input(keys, kv_heads * head_dim, seed);
                let inputs = [input(queries, heads * head_dim, 1), kv(2), kv(3)];
                compare(
                    &format!("{what}, {heads}/{kv_heads}x{head_dim}, window {window:?}, cap {soft_cap:?}"),
                    &inputs,
                    |_, _, mut x| {
                        let (v, k) = (x.remove(2), x.remove(1));
                        attention(x.remove(0), k, v, &layout)
                    },
                );
            }
        }
    }
}

/// More parameters than fit into one launch, with and without copies, with and without weight decay. In the third step, all
/// gradients are NaN.
#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn optimizer_steps_and_norms() {
    let settings = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let shapes: Vec<[usize; 2]> = SHAPES.map(|(rows, columns)| [rows, columns]).into_iter().cycle().take(150).collect();
    let step_of = |device: &Device, copies: DType| {
        let tensors = |seed: u64, factor: f32| -> Vec<Tensor<2>> {
            let numbers = shapes.iter().zip(seed..).map(|([rows, columns], seed)| numbers(rows * columns, seed));
            let data = numbers.zip(&shapes).map(|(numbers, shape)| TensorData::new(numbers, *shape));
            data.map(|data| Tensor::from_data(data, device) * factor).collect()
        };
        let mut parameters = tensors(1, 1.0);
        let mut copies: Vec<_> =
            parameters.iter().zip(0..).map(|(value, place)| (place % 3 > 0).then(|| copied(value, copies))).collect();
        let zeros = |value: &Tensor<2>| Moments::Full([value.zeros_like(), value.zeros_like()]);
        let mut moments: Vec<_> = parameters.iter().map(zeros).collect();
        let mut norms = Vec::new();
        for (step, factor) in [(1, 1.0), (2, 1e-3), (3, f32::NAN), (3, 0.1), (4, 5.0)] {
            let each = parameters.iter_mut().zip(&mut copies).zip(&mut moments).zip(tensors(1000 * step, factor));
            let updates = each.zip(0..).map(|((((parameter, copy), moments), gradient), place)| Update {
                parameter,
                copy: copy.as_mut(),
                moments,
                gradient,
                decays: place % 2 == 0,
            });
            let sums = update(updates.collect(), &settings, step, 10.0).expect("parameters");
            norms.push(norm(&sums.into_data()) as f32);
        }
        assert!(norms[2].is_nan() || !computes());
        norms.remove(2);
        let moments = moments.into_iter().flat_map(|moments| match moments {
            Moments::Full(moments) => moments,
            Moments::Bytes(_) => unreachable!("none were made"),
        });
        let copies: Vec<_> = copies.into_iter().flatten().map(values).collect();
        let full: Vec<_> = parameters.into_iter().chain(moments).map(values).chain([norms]).collect();
        (full, copies)
    };
    for (dtype, _) in types() {
        let ((got, got_copies), (want, want_copies)) = (step_of(&gpu(), dtype), step_of(&Device::flex(), dtype));
        for (place, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_close(got, want, 2e-6, &format!("{dtype:?}, tensor {place}"));
        }
        let tolerance = if dtype == DType::BF16 { 8e-3 } else { 2e-6 };
        for (place, (got, want)) in got_copies.iter().zip(&want_copies).enumerate() {
            assert_close(got, want, tolerance, &format!("{dtype:?}, copy {place}"));
        }
    }
}

/// If a moment is the midpoint of two values of its map, devices may round to either. Such an element continues with another
/// moment.
#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn adamw_steps_with_8_bit_moments() {
    let settings = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let run = |device: &Device, rows: usize, columns: usize| {
        let tensor =
            |seed| Tensor::<2>::from_data(TensorData::new(numbers(rows * columns, seed), [rows, columns]), device);
        let mut parameter = tensor(1);
        let mut moments = Moments::Bytes([(); 2].map(|()| Moment8::zeros(rows * columns, device)));
        for step in 1..=5 {
            let gradient = tensor(10 + step);
            let each = Update { parameter: &mut parameter, copy: None, moments: &mut moments, gradient, decays: true };
            update(vec![each], &settings, step, 0.1).expect("a parameter");
        }
        let Moments::Bytes([first, second]) = moments else { unreachable!("made above") };
        [values(parameter), values(first.absmax), values(second.absmax)]
    };
    let device = gpu();
    for (rows, columns) in SHAPES {
        let (got, want) = (run(&device, rows, columns), run(&Device::flex(), rows, columns));
        let elements = got[0].iter().zip(&want[0]);
        let apart = elements.filter(|(got, want)| computes() && (*got - *want).abs() > 1e-5).count();
        assert!(apart * 1000 <= rows * columns, "{rows}x{columns}: {apart} elements");
        assert_close(&got[0], &want[0], 5e-3, &format!("{rows}x{columns}, parameter"));
        assert_close(&got[1], &want[1], 1e-5, &format!("{rows}x{columns}, first"));
        assert_close(&got[2], &want[2], 1e-5, &format!("{rows}x{columns}, second"));
    }
}

/// The stub driver copies too, if rows are contiguous.
#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn offloaded_tensors_come_back_unchanged() {
    let device = gpu();
    for (count, rows) in [1, 2, 5, 7, 9].into_iter().flat_map(|count| [3, 40, 100, 1000].map(|rows| (count, rows))) {
        let mut stack = HostStack::new(true);
        let numbers: Vec<Vec<f32>> = (0..count).map(|seed| numbers(rows * 128, seed)).collect();
        for numbers in &numbers {
            stack.push(Tensor::from_data(TensorData::new(numbers.clone(), [rows, 128]), &device));
            // This allocation may reuse memory that a copy is reading.
            drop(Tensor::<2>::from_data(TensorData::new(vec![f32::NAN; rows * 128], [rows, 128]), &device));
        }
        for numbers in numbers.iter().rev() {
            assert_eq!(&values(stack.pop().expect("a tensor")), numbers, "{count} of {rows} rows");
        }
        assert!(stack.pop().is_none());
    }
    // A stack that is dropped while copies are pending blocks nothing.
    let mut stack = HostStack::new(true);
    (0..6).for_each(|_| stack.push(Tensor::ones([500, 128], &device)));
    (0..3).for_each(|_| drop(stack.pop()));
    drop(stack);
    assert!(values(Tensor::<2>::ones([500, 128], &device)).iter().all(|value| *value == 1.0) || !computes());
}

#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names"]
fn equal_inputs_give_bit_identical_outputs() {
    let device = gpu();
    let layout = AttentionLayout {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        scale: 0.25,
        soft_cap: None,
        window: None,
        segments: vec![Segment { q_start: 0, q_len: 90, k_start: 0, k_len: 90 }],
    };
    let inputs = [input(90, 64, 1), input(90, 32, 2), input(90, 32, 3)];
    let op = |_: &Device, _: DType, mut x: Vec<Tensor<2>>| {
        let (v, k) = (x.remove(2), x.remove(1));
        attention(x.remove(0), k, v, &layout)
    };
    for (dtype, _) in types() {
        let once = || run(&op, &inputs, &device, dtype);
        assert!(once() == once() || !computes(), "{dtype:?}");
    }
}

/// All-reduces tensors of one rank with NCCL, in lengths that fill its vectors and that don't. Needs two GPUs, or the stub
/// driver, whose memory is real and whose NCCL sums.
#[cfg(feature = "cuda")]
fn sums(communicator: tonfall_kernels::Communicator, device: &Device) -> Vec<Vec<f32>> {
    use tonfall_kernels::all_reduce;

    let rank = communicator.rank;
    let own = |len| TensorData::new(numbers(len, (100 * rank + len % 100) as u64), [len]);
    let tensors = || SUMMED.map(|len| Tensor::<1>::from_data(own(len), device)).to_vec();
    let once = all_reduce(tensors(), communicator).into_iter().map(values).collect::<Vec<_>>();
    // Tensors that are still referenced must not change; they are copied by a kernel.
    let held = tensors();
    let again = all_reduce(held.clone(), communicator).into_iter().map(values).collect::<Vec<_>>();
    let held: Vec<_> = held.into_iter().map(values).collect();
    assert_eq!(held, tensors().into_iter().map(values).collect::<Vec<_>>(), "rank {rank}");
    assert!(!computes() || again == once, "rank {rank}");
    once
}

#[cfg(feature = "cuda")]
const SUMMED: [usize; 3] = [15, 1, 64_000];

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names, twice"]
fn cards_add_up() {
    use tonfall_kernels::Communicator;

    let cards = Device::enumerate(DeviceType::Cuda);
    assert!(Communicator::available() && cards.len() > 1, "{} CUDA GPUs; the test needs two, and NCCL", cards.len());
    let id = Communicator::new_id().expect("NCCL begins");
    let rank = |rank| sums(Communicator { id, rank, size: 2 }, &cards[rank]);
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| rank(1));
        (rank(0), second.join().expect("the second rank"))
    });
    assert!(first == second);
    for (sum, len) in first.iter().zip(SUMMED) {
        let each = [0, 100].map(|rank| numbers(len, (rank + len % 100) as u64));
        let want: Vec<f32> = each[0].iter().zip(&each[1]).map(|(a, b)| a + b).collect();
        assert!(*sum == want, "{len} numbers");
    }
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs the device that TONFALL_TEST_DEVICE names, and NCCL"]
fn a_card_alone_is_its_own_sum() {
    use tonfall_kernels::Communicator;

    assert!(Communicator::available(), "NCCL can't be opened");
    let id = Communicator::new_id().expect("NCCL begins");
    let sums = sums(Communicator { id, rank: 0, size: 1 }, &gpu());
    assert!(sums == SUMMED.map(|len| numbers(len, (len % 100) as u64)));
}

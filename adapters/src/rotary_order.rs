//! The order of the rows of q and k: Hugging Face's and that of GGUF's architecture `llama`.
//!
//! Within each head, Hugging Face stores the rows of the first half, then those of the second. GGUF alternates both halves.
//! Source: llama.cpp, `permute` in its converter for Llama.

/// Reorders rows (or the elements of a vector) from GGUF's order to Hugging Face's. `rows` rows are `heads` whole heads.
pub(crate) fn from_gguf(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    reordered(bytes, rows, heads, |half, at| 2 * (at % half) + at / half)
}

/// Reorders rows (or the elements of a vector) from Hugging Face's order to GGUF's. `rows` rows are `heads` whole heads.
pub(crate) fn to_gguf(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    reordered(bytes, rows, heads, |half, at| at / 2 + half * (at % 2))
}

/// `source` is the row within a head that comes to a place, for heads of 2 · `half` rows.
fn reordered(bytes: &[u8], rows: usize, heads: usize, source: impl Fn(usize, usize) -> usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows;
    let head_rows = rows / heads;
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head_rows * row_bytes) {
        for at in 0..head_rows {
            out.extend_from_slice(&head[source(head_rows / 2, at) * row_bytes..][..row_bytes]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_alternate_within_each_head() {
        // Two heads of four rows of one byte.
        let rows = [0, 1, 2, 3, 10, 11, 12, 13];
        assert_eq!(to_gguf(&rows, 8, 2), [0, 2, 1, 3, 10, 12, 11, 13]);
        // One head of four rows of two bytes.
        assert_eq!(to_gguf(&rows, 4, 1), [0, 1, 10, 11, 2, 3, 12, 13]);
    }

    #[test]
    fn both_orders_are_inverse() {
        let bytes: Vec<u8> = (0..96).collect();
        for (rows, heads) in [(8, 2), (24, 3), (48, 4), (96, 2)] {
            assert_eq!(from_gguf(&to_gguf(&bytes, rows, heads), rows, heads), bytes);
        }
    }
}

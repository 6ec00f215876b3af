//! The bytes of an XML file → text.
//!
//! Responsible for: the encoding, detected by a byte order mark, the first bytes or the XML declaration.
//! Must not depend on: the content of the XML.

/// Windows-1252 from 0x80 to 0x9f. The five unassigned bytes map to the code points of the same value, as in browsers.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The bytes at which ISO 8859-15 differs from ISO 8859-1.
const LATIN_9: [(u8, char); 8] =
    [(0xa4, '€'), (0xa6, 'Š'), (0xa8, 'š'), (0xb4, 'Ž'), (0xb8, 'ž'), (0xbc, 'Œ'), (0xbd, 'œ'), (0xbe, 'Ÿ')];

/// Decodes an XML file. A byte order mark is removed.
///
/// # Errors
/// If the encoding is unknown or a byte is invalid. The text names the encoding or the byte offset, and the solution.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<String, String> {
    match bytes[..] {
        [0xff, 0xfe, ..] => return utf_16(&bytes[2..], u16::from_le_bytes),
        [0xfe, 0xff, ..] => return utf_16(&bytes[2..], u16::from_be_bytes),
        [b'<', 0, ..] => return utf_16(&bytes, u16::from_le_bytes),
        [0, b'<', ..] => return utf_16(&bytes, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, ..] => return utf_8(bytes).map(|text| text.trim_start_matches('\u{feff}').to_owned()),
        _ => {}
    }
    let one_byte = |to_char: &dyn Fn(u8) -> char| Ok(bytes.iter().map(|byte| to_char(*byte)).collect());
    match declared(&bytes).as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii" | "ascii") => utf_8(bytes),
        Some("iso-8859-1" | "latin1" | "latin-1" | "l1") => one_byte(&char::from),
        Some("iso-8859-15" | "latin-9" | "latin9") => one_byte(&|byte| {
            LATIN_9.iter().find(|(place, _)| *place == byte).map_or(char::from(byte), |(_, other)| *other)
        }),
        Some("windows-1252" | "cp1252") => one_byte(&|byte| match byte {
            0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
            byte => char::from(byte),
        }),
        // The declaration was found in single bytes, so the file can't be UTF-16.
        Some("utf-16" | "utf-16le" | "utf-16be") => {
            Err("the file declares UTF-16 and isn't; declare the encoding that it has".to_owned())
        }
        Some(other) => Err(format!("the encoding {other} is not read; save the file as UTF-8")),
    }
}

/// The encoding in `<?xml version="1.0" encoding="…"?>`, in lower case.
fn declared(bytes: &[u8]) -> Option<String> {
    let declaration = bytes.trim_ascii_start().strip_prefix(b"<?xml")?;
    let end = declaration.iter().take(256).position(|byte| *byte == b'>')?;
    let declaration = String::from_utf8_lossy(&declaration[..end]).into_owned();
    let value = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    Some(value[1..].split(quote).next()?.to_lowercase())
}

fn utf_8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        format!(
            "the file is not UTF-8: invalid byte at offset {offset}; save it as UTF-8, or declare its encoding, as in \
             <?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>"
        )
    })
}

fn utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (units, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("the file is UTF-16 with an odd number of bytes; is it cut off?".to_owned());
    }
    let mut text = String::with_capacity(bytes.len());
    let mut at = 0;
    for decoded in char::decode_utf16(units.iter().map(|bytes| unit(*bytes))) {
        let c = decoded.map_err(|_| format!("the file is not UTF-16: half a character at offset {at}"))?;
        at += 2 * c.len_utf16();
        text.push(c);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn every_encoding_decodes_to_the_same_text() {
        let text = |encoding: &str| format!("<?xml version='1.0' encoding='{encoding}'?><term>Größe</term>");
        let latin = |text: String| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
        let wide = |text: String, unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        for encoding in ["ISO-8859-1", "latin1", "windows-1252", "ISO-8859-15"] {
            assert_eq!(decode(latin(text(encoding))), Ok(text(encoding)));
        }
        assert_eq!(decode(text("UTF-8").into_bytes()), Ok(text("UTF-8")));
        assert_eq!(decode(format!("\u{feff}{}", text("utf-8")).into_bytes()), Ok(text("utf-8")));
        for unit in [u16::to_le_bytes, u16::to_be_bytes] {
            assert_eq!(decode(wide(text("UTF-16"), unit)), Ok(text("UTF-16")));
            assert_eq!(decode(wide(format!("\u{feff}{}", text("UTF-16")), unit)), Ok(text("UTF-16")));
        }
        let euro = |encoding: &str, byte: u8| {
            decode([format!("<?xml encoding=\"{encoding}\"?>").as_bytes(), &[byte]].concat())
                .expect("one byte a letter")
        };
        assert!(euro("windows-1252", 0x80).ends_with('€') && euro("iso-8859-15", 0xa4).ends_with('€'));
        assert!(euro("iso-8859-1", 0xa4).ends_with('¤'));
    }

    #[test]
    fn other_encodings_are_errors_that_name_a_solution() {
        let refused = |bytes: &[u8], why: &str| {
            let error = decode(bytes.to_vec()).expect_err(why);
            assert!(error.contains(why), "{error} lacks {why}");
        };
        refused(b"<a>Gr\xf6\xdfe</a>", "invalid byte at offset 5; save it as UTF-8, or declare");
        refused(b"<?xml version=\"1.0\" encoding=\"EBCDIC-CP-DE\"?>", "the encoding ebcdic-cp-de is not read");
        refused(b"<?xml version=\"1.0\" encoding=\"UTF-16\"?><a/>", "declares UTF-16 and isn't");
        refused(b"\xff\xfe<\0a", "odd number of bytes");
        refused(b"\xfe\xff\0<\xd8\0", "half a character at offset 2");
    }
}

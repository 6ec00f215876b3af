//! Writing HTML into which no text can inject markup.
//!
//! Responsible for: escaping. Markup is a literal of this program; every value in it is escaped.
//! Must not depend on: the content of a page.

use std::fmt::{self, Display, Write};

use tonfall_recipes::printable;

/// A piece of HTML. Only [`html!`] adds to it.
#[derive(Debug, Default)]
pub(crate) struct Html(String);

impl Html {
    /// For [`html!`], which escapes every argument.
    pub(crate) fn push(&mut self, markup: fmt::Arguments<'_>) {
        let written = self.0.write_fmt(markup);
        debug_assert!(written.is_ok(), "writing to a string");
    }

    /// Adds a style sheet of this program.
    pub(crate) fn style(&mut self, sheet: &'static str) {
        self.0.push_str("<style>\n");
        self.0.push_str(sheet);
        self.0.push_str("</style>\n");
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// Adds markup to an [`Html`]: `html!(page, "<td title=\"{}\">{}</td>", title, text)`. Values are escaped for text and
/// for attributes in double quotes. `concat!` makes the compiler refuse values inside the literal, such as `{text}`,
/// which would not be escaped.
macro_rules! html {
    ($to:expr, $markup:literal $(, $value:expr)* $(,)?) => {
        $to.push(format_args!(concat!($markup), $($crate::html::Escaped(&$value)),*))
    };
}
pub(crate) use html;

/// A value, escaped when it is displayed.
pub(crate) struct Escaped<'a, T: ?Sized>(pub(crate) &'a T);

impl<T: Display + ?Sized> Display for Escaped<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_assert!(f.precision().is_none() && f.width().is_none(), "format the value before it is escaped");
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Control characters are no valid HTML, and those that reorder text could disguise it.
        let text = printable::escaped(text);
        let mut rest = text.as_ref();
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            let (plain, special) = rest.split_at(at);
            self.0.write_str(plain)?;
            self.0.write_str(match special.as_bytes()[0] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &special[1..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_markup() {
        let mut page = Html::default();
        let hostile = "</td><script>alert('1')</script>\" onload=\"x\u{202e}\u{0}&amp;";
        html!(page, "<td title=\"{}\">{}</td>", hostile, 5);
        let page = page.into_string();
        assert_eq!(
            page,
            "<td title=\"&lt;/td&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot; onload=&quot;x\\u202e\\x00&amp;amp;\">5</td>"
        );
    }

    #[test]
    fn other_text_is_unchanged() {
        let mut page = Html::default();
        html!(page, "{}", "Grüße 東京\n\tA = {x}");
        assert_eq!(page.into_string(), "Grüße 東京\n\tA = {x}");
    }
}

//! A self-contained HTML page: its style and its few lines of script are inside, and it asks the network for nothing.
//!
//! Light or dark as the reader's system is. What goes into it comes as HTML; [`escaped`] makes HTML of plain text.

use std::fmt::Write;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The whole document. The policy in its head makes a browser refuse whatever is not in the page itself.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escaped(title)
    )
}

/// Plain text as HTML, for elements and for attributes in double quotes.
pub fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            // A terminal's escape sequences and the like are no part of a page.
            other if other.is_control() && other != '\n' && other != '\t' => html.push('\u{fffd}'),
            other => html.push(other),
        }
    }
    html
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    html: String,
    class: &'static str,
}

impl Cell {
    /// Words, on the left.
    pub fn text(text: &str) -> Self {
        Self { html: escaped(text), class: "" }
    }

    /// A figure, on the right.
    pub fn number(text: &str) -> Self {
        Self { html: escaped(text), class: "n" }
    }

    /// HTML as it is.
    pub fn html(html: String) -> Self {
        Self { html, class: "" }
    }
}

/// A mark that is told apart by its word as well as by its colour.
pub fn badge(good: bool, text: &str) -> String {
    format!("<span class=\"badge {}\">{}</span>", if good { "good" } else { "bad" }, escaped(text))
}

/// A table that scrolls within itself where it is wider than the page. A column is on the right where its first cell is a
/// figure. The caption is read out first. A head without any text is left out.
pub fn table(caption: &str, head: &[&str], rows: &[Vec<Cell>]) -> String {
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption>\n",
        escaped(caption)
    );
    if head.iter().any(|name| !name.is_empty()) {
        html.push_str("<thead><tr>");
        for (place, name) in head.iter().enumerate() {
            let class = rows.first().and_then(|row| row.get(place)).map_or("", |cell| cell.class);
            let _ = write!(html, "<th scope=\"col\"{}>{}</th>", class_of(class), escaped(name));
        }
        html.push_str("</tr></thead>\n");
    }
    html.push_str("<tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<td{}>{}</td>", class_of(cell.class), cell.html);
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody></table></div>\n"
}

fn class_of(class: &str) -> String {
    if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_stays_text() {
        assert_eq!(escaped("<b a=\"1\">&'\u{1b}[0m"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;\u{fffd}[0m");
        let page = document("</title><script>", "");
        assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"), "{page}");
    }

    #[test]
    fn a_table_has_a_caption_and_its_figures_on_the_right() {
        let rows = [vec![Cell::text("p99 < 1"), Cell::number("5"), Cell::html(badge(false, "breached"))]];
        let html = table("Thresholds", &["threshold", "found", ""], &rows);
        assert!(html.contains("<caption>Thresholds</caption>"), "{html}");
        assert!(html.contains("<th scope=\"col\" class=\"n\">found</th>"), "{html}");
        assert!(html.contains("<td>p99 &lt; 1</td><td class=\"n\">5</td>"), "{html}");
        assert!(html.contains("<span class=\"badge bad\">breached</span>"), "{html}");
    }

    #[test]
    fn a_page_names_nothing_outside_itself() {
        let page = document("title", "body");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside} in {page}");
        }
    }
}

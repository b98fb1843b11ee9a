//! Small charts as SVG, drawn without a script. Colours and strokes come from the style sheet; nothing is inline.

use std::fmt::Write;

/// The width of the drawing, in its own units. The page stretches it.
const WIDTH: f64 = 288.0;
/// The height of the drawing.
const HEIGHT: f64 = 64.0;

/// How the values are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// By straight lines, for what changes continuously.
    Line,
    /// By steps, for numbers of things.
    Steps,
}

/// Values at equal distances, oldest first. `None` is a gap.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// The class of its strokes in the style sheet.
    pub class: &'static str,
    pub values: Vec<Option<f64>>,
}

/// A chart's content.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chart<'a> {
    /// A name that is unique on the page.
    pub id: &'a str,
    pub title: &'a str,
    /// What it shows, as a text.
    pub description: &'a str,
    pub style: Style,
    /// The value at the upper edge. The lower edge is 0.
    pub top: f64,
    pub series: &'a [Series],
}

/// Returns the next larger of 1, 2, 5, 10, 20, 50, …, for the upper edge of a chart.
pub(super) fn round_up(value: f64) -> f64 {
    let mut unit = 1.0;
    while unit * 10.0 < value {
        unit *= 10.0;
    }
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|n| n * unit)
        .find(|top| *top >= value)
        .unwrap_or(value)
}

/// Returns a chart as an SVG element.
pub(super) fn svg(of: &Chart) -> String {
    let (id, title, text) = (of.id, escape(of.title), escape(of.description));
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-labelledby=\"{id}-title {id}-text\"><title id=\"{id}-title\">{title}</title>\
         <desc id=\"{id}-text\">{text}</desc><path class=\"grid\" d=\"M0 0.5H{WIDTH}M0 {}H{WIDTH}\"/>",
        HEIGHT / 2.0
    );
    for series in of.series {
        let (line, area) = paths(&series.values, of.top, of.style);
        if !line.is_empty() {
            let class = series.class;
            // Writing to a string doesn't fail.
            let _ = write!(
                svg,
                "<path class=\"area {class}\" d=\"{area}\"/><path class=\"line {class}\" d=\"{line}\"/>"
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Returns the path of a line through the values, and of the area below it. Each value covers a column of the same width,
/// so that one between two gaps is seen too.
fn paths(values: &[Option<f64>], top: f64, style: Style) -> (String, String) {
    #[expect(clippy::cast_precision_loss, reason = "a number of columns")]
    let column = WIDTH / values.len().max(1) as f64;
    let y = |value: f64| {
        let part = if top > 0.0 { value / top } else { 0.0 };
        // Half a stroke below the edge, so that it isn't cut off.
        1.0 + (HEIGHT - 2.0) * (1.0 - part.clamp(0.0, 1.0))
    };
    let (mut line, mut area) = (String::new(), String::new());
    let mut from = 0;
    for run in values.split(Option::is_none) {
        let points = points(run, from, column, style);
        from += run.len() + 1;
        let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else {
            continue;
        };
        let drawn: Vec<String> = points
            .iter()
            .map(|(x, value)| format!("{x:.1} {:.1}", y(*value)))
            .collect();
        let drawn = drawn.join("L");
        let _ = write!(line, "M{drawn}");
        let _ = write!(area, "M{first:.1} {HEIGHT}L{drawn}L{last:.1} {HEIGHT}Z");
    }
    (line, area)
}

/// Returns the corners of the line through a run of values without a gap. `from` is the number of the first column.
fn points(run: &[Option<f64>], from: usize, column: f64, style: Style) -> Vec<(f64, f64)> {
    #[expect(clippy::cast_precision_loss, reason = "a number of columns")]
    let left = |i: usize| (from + i) as f64 * column;
    let known = run.iter().flatten().copied().enumerate();
    match style {
        Style::Steps => known
            .flat_map(|(i, value)| [(left(i), value), (left(i + 1), value)])
            .collect(),
        Style::Line => {
            let mut points: Vec<(f64, f64)> = known
                .map(|(i, value)| (left(i) + column / 2.0, value))
                .collect();
            // To the edges of the outer columns.
            if let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) {
                points.insert(0, (left(0), first.1));
                points.push((left(run.len()), last.1));
            }
            points
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reaches_from_edge_to_edge() {
        let (line, area) = paths(&[Some(0.0), Some(10.0)], 10.0, Style::Line);
        assert_eq!(line, "M0.0 63.0L72.0 63.0L216.0 1.0L288.0 1.0");
        assert_eq!(
            area,
            "M0.0 64L0.0 63.0L72.0 63.0L216.0 1.0L288.0 1.0L288.0 64Z"
        );
    }

    #[test]
    fn steps_are_flat() {
        let (line, _) = paths(&[Some(5.0), Some(10.0)], 10.0, Style::Steps);
        assert_eq!(line, "M0.0 32.0L144.0 32.0L144.0 1.0L288.0 1.0");
    }

    #[test]
    fn gaps_stay_gaps() {
        let values = [Some(10.0), None, None, Some(0.0)];
        let (line, area) = paths(&values, 10.0, Style::Steps);
        assert_eq!(line, "M0.0 1.0L72.0 1.0M216.0 63.0L288.0 63.0");
        assert_eq!(area.matches('Z').count(), 2);
        assert_eq!(paths(&[None, None], 10.0, Style::Line), Default::default());
        assert_eq!(paths(&[], 10.0, Style::Line), Default::default());
    }

    #[test]
    fn values_stay_within_the_drawing() {
        let (line, _) = paths(&[Some(99.0), Some(-1.0)], 10.0, Style::Steps);
        assert_eq!(line, "M0.0 1.0L144.0 1.0L144.0 63.0L288.0 63.0");
        let (flat, _) = paths(&[Some(0.0)], 0.0, Style::Steps);
        assert_eq!(flat, "M0.0 63.0L288.0 63.0");
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (value, top) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.5, 2.0),
            (3.0, 5.0),
            (7.0, 10.0),
            (10.0, 10.0),
            (11.0, 20.0),
            (45.0, 50.0),
            (4097.0, 5000.0),
        ] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn a_chart_has_a_title_and_a_text() {
        let svg = svg(&Chart {
            id: "queue",
            title: "Queue",
            description: "now <3",
            style: Style::Steps,
            top: 5.0,
            series: &[Series {
                class: "main",
                values: vec![Some(3.0)],
            }],
        });
        assert!(svg.contains("role=\"img\" aria-labelledby=\"queue-title queue-text\""));
        assert!(svg.contains("<title id=\"queue-title\">Queue</title>"));
        assert!(svg.contains("now &lt;3") && !svg.contains("style="));
        assert_eq!(svg.matches("<path").count(), 3);
    }
}

//! Plots as SVG: curves over an axis, and what happened when.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 48.0;
/// Colours that stay apart in print and for the colour-blind (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// One curve.
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Horizontal and vertical, such as seconds and MiB, in the order of the former.
    pub points: Vec<(f64, f64)>,
}

/// How points are joined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// A value stays until the next point.
    Steps,
    /// By straight lines.
    Lines,
}

/// What the axes say, and how curves are drawn.
pub struct Chart<'a> {
    /// Above everything.
    pub title: &'a str,
    /// What is measured from left to right, and up.
    pub axes: (&'a str, &'a str),
    /// Distance of the horizontal lines.
    pub line_every: f64,
    /// How points are joined.
    pub join: Join,
}

/// Something that happened.
pub struct Event {
    /// Seconds.
    pub at: f64,
    /// What, in a few words.
    pub what: String,
}

/// Draws memory in MiB over seconds, as steps: memory has its value until the next look.
pub fn memory_over_time(title: &str, curves: &[Curve], events: &[Event]) -> String {
    let chart = Chart {
        title,
        axes: ("seconds", "MiB"),
        line_every: 128.0,
        join: Join::Steps,
    };
    draw(&chart, curves, events)
}

/// Draws the curves from zero on both axes.
pub fn draw(chart: &Chart<'_>, curves: &[Curve], events: &[Event]) -> String {
    let last = |curve: &Curve| curve.points.last().map_or(0.0, |(t, _)| *t);
    let right = curves.iter().map(last).fold(1.0, f64::max);
    let highest = curves
        .iter()
        .flat_map(|c| &c.points)
        .map(|(_, height)| *height)
        .fold(0.0, f64::max);
    let every = chart.line_every;
    let top = (highest / every).ceil().max(1.0) * every + every / 2.0;
    let x = |t: f64| LEFT + t / right * (WIDTH - LEFT - RIGHT);
    let y = |height: f64| HEIGHT - BOTTOM - height / top * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(chart.title)
    );
    let mut line = 0.0;
    while line <= top {
        let at = y(line);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            (line * 1000.0).round() / 1000.0
        );
        line += every;
    }
    let step = tick(right);
    let mut t = 0.0;
    while t <= right {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(t),
            HEIGHT - BOTTOM + 18.0,
            (t * 10.0).round() / 10.0
        );
        t += step;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><text x=\"14\" y=\"{}\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 10.0,
        escaped(chart.axes.0),
        TOP - 1.0,
        escaped(chart.axes.1)
    );
    for (index, event) in events.iter().enumerate() {
        let at = x(event.at);
        // Labels on two heights, so that neighbours do not cover each other.
        let height = TOP + 12.0 + 14.0 * (index % 2) as f64;
        let (anchor, beside) = if at > 0.8 * WIDTH {
            ("end", at - 3.0)
        } else {
            ("start", at + 3.0)
        };
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>\
             <text x=\"{beside:.1}\" y=\"{height}\" text-anchor=\"{anchor}\" font-size=\"10\" fill=\"#555\">{}</text>",
            HEIGHT - BOTTOM,
            escaped(&event.what)
        );
    }
    for (index, (curve, colour)) in curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let mut path = String::new();
        for (i, (t, height)) in curve.points.iter().enumerate() {
            let (x, y) = (x(*t), y(*height));
            let _ = match (i, chart.join) {
                (0, _) => write!(path, "M{x:.1} {y:.1}"),
                // Horizontally to the new moment, then to the new value.
                (_, Join::Steps) => write!(path, "H{x:.1}V{y:.1}"),
                (_, Join::Lines) => write!(path, "L{x:.1} {y:.1}"),
            };
        }
        let legend = LEFT + 150.0 * index as f64;
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\
             <rect x=\"{legend}\" y=\"32\" width=\"14\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"38\">{}</text>",
            legend + 20.0,
            escaped(&curve.name)
        );
    }
    svg + "</svg>\n"
}

/// A round distance of ticks that gives ten or fewer.
fn tick(range: f64) -> f64 {
    [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0,
    ]
    .into_iter()
    .find(|step| range / step <= 10.0)
    .unwrap_or(21_600.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_each_curve_as_steps() {
        let curves = [Curve {
            name: "a <b>".to_owned(),
            points: vec![(0.0, 512.0), (5.0, 512.0), (6.0, 256.0)],
        }];
        let svg = memory_over_time(
            "memory",
            &curves,
            &[Event {
                at: 5.0,
                what: "a -> b".to_owned(),
            }],
        );
        assert_eq!(svg.matches("<path").count(), 1);
        assert!(
            svg.contains('H') && svg.contains("a &lt;b&gt;") && svg.contains("a -&gt; b"),
            "{svg}"
        );
        assert!(svg.ends_with("</svg>\n"));
    }
}

//! `memory.svg`: each guest's memory over time, as the hypervisor accounts it.

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
    /// Seconds and MiB, in the order of time.
    pub points: Vec<(f64, f64)>,
}

/// Something that happened.
pub struct Event {
    /// Seconds.
    pub at: f64,
    /// What, in a few words.
    pub what: String,
}

/// Draws the curves as steps: memory has its value until the next look.
pub fn memory_over_time(title: &str, curves: &[Curve], events: &[Event]) -> String {
    let last = |curve: &Curve| curve.points.last().map_or(0.0, |(t, _)| *t);
    let seconds = curves.iter().map(last).fold(1.0, f64::max);
    let highest = curves
        .iter()
        .flat_map(|c| &c.points)
        .map(|(_, mib)| *mib)
        .fold(1.0, f64::max);
    let top_mib = (highest / 128.0).ceil() * 128.0 + 64.0;
    let x = |t: f64| LEFT + t / seconds * (WIDTH - LEFT - RIGHT);
    let y = |mib: f64| HEIGHT - BOTTOM - mib / top_mib * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    let mut mib = 0.0;
    while mib <= top_mib {
        let at = y(mib);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mib:.0}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
        mib += 128.0;
    }
    let step = tick(seconds);
    let mut t = 0.0;
    while t <= seconds {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{t:.0}</text>",
            x(t),
            HEIGHT - BOTTOM + 18.0
        );
        t += step;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">seconds</text><text x=\"14\" y=\"{}\">MiB</text>",
        WIDTH - RIGHT,
        HEIGHT - 10.0,
        TOP - 12.0
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
        for (i, (t, mib)) in curve.points.iter().enumerate() {
            // Horizontally to the new moment, then to the new value.
            let _ = match i {
                0 => write!(path, "M{:.1} {:.1}", x(*t), y(*mib)),
                _ => write!(path, "H{:.1}V{:.1}", x(*t), y(*mib)),
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
fn tick(seconds: f64) -> f64 {
    [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0]
        .into_iter()
        .find(|step| seconds / step <= 10.0)
        .unwrap_or(300.0)
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

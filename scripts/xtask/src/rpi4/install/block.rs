//! The block in `config.txt`. It is appended to whatever the file has, so that cutting it out gives the same bytes.

use anyhow::{Result, bail};

const BEGIN: &[u8] = b"# BEGIN Ballast";
const END: &[u8] = b"# END Ballast";
/// Begins with a line's end, since the text before may lack one; it goes with the block.
const BLOCK: &str = "
# BEGIN Ballast: `cargo xtask install --boot DIR --remove` takes this block out
[all]
arm_64bit=1
enable_uart=1
auto_initramfs=0
kernel=ballast/ballast.img
initramfs ballast/ballast.cpio followkernel
dtoverlay=ballast
# END Ballast
";

/// Where the block is, as a range of bytes.
///
/// # Errors
/// Its marks do not pair up: somebody edited the block.
pub fn find(config: &[u8]) -> Result<Option<std::ops::Range<usize>>> {
    let mut begins = Vec::new();
    let mut ends = Vec::new();
    let mut at = 0;
    for line in config.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(BEGIN) {
            begins.push(at);
        }
        at += line.len();
        if line.starts_with(END) {
            ends.push(at);
        }
    }
    match (begins.as_slice(), ends.as_slice()) {
        ([], []) => Ok(None),
        ([begin], [end]) if begin < end => {
            let before = config.get(..*begin).unwrap_or_default();
            let line_end = if before.ends_with(b"\r\n") {
                2
            } else {
                usize::from(before.ends_with(b"\n"))
            };
            Ok(Some(begin - line_end..*end))
        }
        _ => bail!(
            "config.txt has marks of Ballast that do not pair up: put it right by hand, from `{}` to `{}`",
            String::from_utf8_lossy(BEGIN),
            String::from_utf8_lossy(END)
        ),
    }
}

/// `config` without the block.
pub fn without(config: &[u8]) -> Result<Vec<u8>> {
    let Some(block) = find(config)? else {
        return Ok(config.to_owned());
    };
    let mut rest = config.to_owned();
    rest.drain(block);
    Ok(rest)
}

/// `config`, which has no block, with it.
pub fn with(config: &[u8]) -> Vec<u8> {
    [config, BLOCK.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_exactly() {
        let texts: [&[u8]; 6] = [
            b"",
            b"\n",
            b"arm_64bit=1",
            b"arm_64bit=1\n",
            b"a=1\r\n\r\n[all]\r\n",
            b"\xff\xfe not text \n\n\n",
        ];
        for text in texts {
            let installed = with(text);
            assert_eq!(find(text).unwrap(), None);
            assert!(find(&installed).unwrap().is_some());
            assert_eq!(without(&installed).unwrap(), text);
        }
    }

    #[test]
    fn lines_added_behind_the_block_stay() {
        let text = [with(b"a=1\n").as_slice(), b"b=2\n"].concat();
        assert_eq!(without(&text).unwrap(), b"a=1\nb=2\n");
    }

    #[test]
    fn a_broken_block_is_not_touched() {
        let text = with(b"a=1\n");
        let cut = text.len() - 15;
        assert!(find(&text[..cut]).is_err());
        assert!(find(&with(&text)).is_err());
    }
}

//! The C header says what the Rust crates say: each number, and each byte of a queue of messages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ballast_balloon::abi::{self, Status, channel, device_tree, feature, function};
use ballast_balloon::channel::ring::{Consumer, HEADER_WORDS, Producer};

/// Every macro of the header with a number, and what the Rust side has.
fn numbers() -> Vec<(&'static str, i64)> {
    vec![
        ("BALLAST_VERSION", abi::VERSION.into()),
        ("BALLAST_PAGE_SIZE", abi::PAGE_SIZE.cast_signed()),
        ("BALLAST_LIST_ENTRIES", abi::LIST_ENTRIES as i64),
        ("BALLAST_UID_0", abi::UID[0].into()),
        ("BALLAST_UID_1", abi::UID[1].into()),
        ("BALLAST_UID_2", abi::UID[2].into()),
        ("BALLAST_UID_3", abi::UID[3].into()),
        ("BALLAST_FN_UID", function::UID.into()),
        ("BALLAST_FN_VERSION", function::VERSION.into()),
        ("BALLAST_FN_FEATURES", function::FEATURES.into()),
        ("BALLAST_FN_HELLO", function::HELLO.into()),
        ("BALLAST_FN_TARGET", function::TARGET.into()),
        ("BALLAST_FN_RESERVE", function::RESERVE.into()),
        ("BALLAST_FN_RELEASE", function::RELEASE.into()),
        ("BALLAST_FN_PRESSURE", function::PRESSURE.into()),
        ("BALLAST_FN_REPORT", function::REPORT.into()),
        ("BALLAST_FN_QUERY", function::QUERY.into()),
        ("BALLAST_FN_GOODBYE", function::GOODBYE.into()),
        ("BALLAST_FN_SIGNAL", function::SIGNAL.into()),
        ("BALLAST_FN_CHANNEL", function::CHANNEL.into()),
        ("BALLAST_FEATURE_MEMORY", feature::MEMORY.cast_signed()),
        ("BALLAST_FEATURE_CPUS", feature::CPUS.cast_signed()),
        ("BALLAST_FEATURE_PRESSURE", feature::PRESSURE.cast_signed()),
        ("BALLAST_FEATURE_REPORT", feature::REPORT.cast_signed()),
        (
            "BALLAST_FEATURE_RUN_QUEUE",
            feature::RUN_QUEUE.cast_signed(),
        ),
        ("BALLAST_FEATURE_CHANNELS", feature::CHANNELS.cast_signed()),
        ("BALLAST_FEATURE_GRANULE", feature::GRANULE.cast_signed()),
        ("BALLAST_SUCCESS", Status::Success as i64),
        ("BALLAST_NOT_SUPPORTED", Status::NotSupported as i64),
        (
            "BALLAST_INVALID_PARAMETERS",
            Status::InvalidParameters as i64,
        ),
        ("BALLAST_DENIED", Status::Denied as i64),
        ("BALLAST_BUSY", Status::Busy as i64),
        ("BALLAST_WRONG_EPOCH", Status::WrongEpoch as i64),
        ("BALLAST_NO_DRIVER", Status::NoDriver as i64),
        ("BALLAST_PEER_STOPPED", Status::PeerStopped as i64),
        ("BALLAST_INVALID_ADDRESS", Status::InvalidAddress as i64),
        ("BALLAST_RUNG", channel::RUNG.cast_signed()),
        ("BALLAST_PEER_STARTED", channel::PEER_STARTED.cast_signed()),
        (
            "BALLAST_PEER_STOPPED_EVENT",
            channel::PEER_STOPPED.cast_signed(),
        ),
        ("BALLAST_PEER_RUNNING", channel::PEER_RUNNING.cast_signed()),
        (
            "BALLAST_PEER_GENERATION",
            channel::PEER_GENERATION.cast_signed(),
        ),
        ("BALLAST_MAX_CHANNELS", channel::MAX_CHANNELS as i64),
        ("BALLAST_CHANNEL_SPI", device_tree::CHANNEL_SPI.into()),
        ("BALLAST_BALLOON_SPI", device_tree::BALLOON_SPI.into()),
        ("BALLAST_RING_HEADER_WORDS", HEADER_WORDS as i64),
    ]
}

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

fn compile(compiler: &str, dir: &Path, source: &str, more: &[&str]) {
    let file = dir.join("test.c");
    std::fs::write(&file, source).unwrap();
    let output = Command::new(compiler)
        .args(["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(include())
        .arg(&file)
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler}: {said}");
}

fn directory(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// An array of negative length for each number that differs.
fn assertions() -> String {
    let check = |(at, (name, value)): (usize, &(&str, i64))| {
        format!("typedef char check_{at}[(long long)({name}) == {value}LL ? 1 : -1];\n")
    };
    let mut source = "#include \"ballast.h\"\n".to_owned();
    source.extend(numbers().iter().enumerate().map(check));
    source
}

/// A program that fails where a text differs.
fn texts() -> String {
    let texts = [
        (
            "BALLAST_CHANNEL_COMPATIBLE",
            device_tree::CHANNEL_COMPATIBLE,
        ),
        ("BALLAST_BALLOON_COMPATIBLE", device_tree::COMPATIBLE),
    ];
    let same = texts.map(|(name, text)| format!("strcmp({name}, \"{text}\") == 0"));
    format!(
        "#include <string.h>\nint main(void) {{ return !({}); }}\n",
        same.join(" && ")
    )
}

#[test]
fn the_numbers_are_the_same() {
    let dir = directory("numbers");
    let program = dir.join("program");
    let source = assertions() + &texts();
    compile("cc", &dir, &source, &["-o", program.to_str().unwrap()]);
    assert!(Command::new(&program).status().unwrap().success());
    // The Linux module has some of its own, in a folder that stands alone.
    let module = include().join("../linux/ballast.h");
    let module = std::fs::read_to_string(module).unwrap();
    let ours = std::fs::read_to_string(include().join("ballast.h")).unwrap();
    let shared = module.lines().filter(|line| {
        let name = line
            .strip_prefix("#define ")
            .and_then(|rest| rest.split_whitespace().next());
        numbers().iter().any(|(known, _)| Some(*known) == name)
    });
    let shared: Vec<&str> = shared.collect();
    assert_eq!(shared.len(), 4, "{shared:?}");
    for line in shared {
        assert!(ours.lines().any(|other| other == line), "{line}");
    }
    // And no macro with a number was forgotten here.
    let header = std::fs::read_to_string(include().join("ballast.h")).unwrap();
    let known = numbers();
    for line in header.lines() {
        let Some(name) = line
            .strip_prefix("#define ")
            .and_then(|rest| rest.split_whitespace().next())
        else {
            continue;
        };
        let elsewhere = ["BALLAST_INTERFACE_H", "BALLAST_RING_", "_COMPATIBLE"];
        let is_known = known.iter().any(|(other, _)| *other == name);
        assert!(
            is_known || elsewhere.iter().any(|part| name.contains(part)),
            "{name} is not compared"
        );
    }
}

/// Where there is a cross compiler, the calls compile for what they are made for: systems without a C library.
#[test]
fn the_calls_compile_for_aarch64() {
    let compiler = "aarch64-linux-gnu-gcc";
    if Command::new(compiler).arg("--version").output().is_err() {
        return;
    }
    let dir = directory("aarch64");
    let object = dir.join("test.o");
    let source = assertions()
        + "int64_t use(uint32_t n, struct ballast_events *e) {\n\
           return ballast_present() ? ballast_signal(n) + ballast_fetch(n, e) : 0; }\n";
    compile(
        compiler,
        &dir,
        &source,
        &["-ffreestanding", "-c", "-o", object.to_str().unwrap()],
    );
}

/// A C program reads what Rust has written and answers, in the bytes of the same memory.
#[test]
fn c_and_rust_understand_each_other() {
    const WORDS: usize = 100;
    let source = r#"
#include "ballast.h"
#include <stdio.h>
static uint32_t a[100], b[100];
int main(int count, char **path)
{
	struct ballast_ring in, out;
	uint8_t message[64];
	int64_t length;
	int rung = 0;
	FILE *file = count == 2 ? fopen(path[1], "r+b") : NULL;
	if (!file || fread(a, 1, sizeof a, file) != sizeof a || fread(b, 1, sizeof b, file) != sizeof b)
		return 2;
	if (ballast_consumer_init(&in, a, sizeof a, b, sizeof b) || ballast_producer_init(&out, b, sizeof b, a, sizeof a))
		return 3;
	if (ballast_pop(&in, message, 0) != BALLAST_RING_TOO_LONG)
		return 4;
	while ((length = ballast_pop(&in, message, sizeof message)) >= 0) {
		int64_t i;
		int pushed;
		for (i = 0; i < length; i++)
			message[i] ^= 0xff;
		pushed = ballast_push(&out, message, (size_t)length);
		if (pushed < 0)
			return 5;
		rung += pushed;
	}
	if (length != BALLAST_RING_EMPTY || rung != 1 || ballast_push(&out, message, 300) != BALLAST_RING_TOO_LONG)
		return 6;
	rewind(file);
	if (fwrite(a, 1, sizeof a, file) != sizeof a || fwrite(b, 1, sizeof b, file) != sizeof b)
		return 7;
	return fclose(file);
}
"#;
    let dir = directory("queue");
    let program = dir.join("program");
    compile("cc", &dir, source, &["-o", program.to_str().unwrap()]);

    let memory = || -> Vec<AtomicU32> { (0..WORDS).map(|_| AtomicU32::new(0)).collect() };
    let (a, b) = (memory(), memory());
    // Positions that wrap while the test runs.
    for (piece, word) in [(&a, 0), (&b, 16)] {
        piece[word].store(u32::MAX - 5, Ordering::Relaxed);
    }
    let file = dir.join("memory");
    let all = || a.iter().chain(&b);
    for round in 0..8_u8 {
        let messages: Vec<Vec<u8>> = (0..5_u8)
            .map(|n| (0..(round * 5 + n) % 12 + 1).map(|i| i * 17 + n).collect())
            .collect();
        let mut producer = Producer::new(&a, &b).unwrap();
        for message in &messages {
            let _ = producer.push(message).unwrap();
        }
        let bytes: Vec<u8> = all()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        std::fs::write(&file, bytes).unwrap();
        let status = Command::new(&program).arg(&file).status().unwrap();
        assert!(status.success(), "round {round}: {status}");
        let bytes = std::fs::read(&file).unwrap();
        for (word, bytes) in all().zip(bytes.as_chunks::<4>().0) {
            word.store(u32::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        let mut consumer = Consumer::new(&b, &a).unwrap();
        let mut buffer = [0; 64];
        for message in messages {
            let length = consumer.pop(&mut buffer).unwrap().unwrap();
            let expected: Vec<u8> = message.iter().map(|byte| byte ^ 0xff).collect();
            assert_eq!(buffer[..length], expected);
        }
        assert_eq!(consumer.pop(&mut buffer), Ok(None));
    }
}

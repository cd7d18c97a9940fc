//! A private apt: its own state, cache and source list, so that packages of another architecture and of a newer
//! suite can be fetched and unpacked without touching what the machine itself has installed or configured.
//!
//! The archive's address comes from the machine's own sources; only signed package lists are used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::host::os_release;
use crate::paths;
use crate::process::Program;

const DEFAULT_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where a Debian archive is and who signs it.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    keyring: Option<String>,
}

/// A package at the version that would be installed.
pub struct Package {
    /// Its name, with `:arch` where it was asked for so.
    pub name: String,
    /// Its version in the archive.
    pub version: String,
    /// Names in its Depends field, versions dropped.
    pub depends: Vec<String>,
    size: u64,
}

/// The private apt.
pub struct PrivateApt {
    dir: PathBuf,
    /// The architecture of this machine, in Debian's words.
    pub host_arch: String,
}

impl PrivateApt {
    /// Makes the private configuration in the cache and fetches the package lists.
    pub fn open(mirror: Option<&str>) -> Result<Self> {
        if which::which("apt-get").is_err() || which::which("dpkg-deb").is_err() {
            bail!(
                "the guests' kernel comes from Debian's packages, which need apt-get and dpkg-deb; they are not on \
                 this machine. On Fedora: `dnf install apt dpkg debian-keyring`, then give --debian-mirror; on macOS \
                 use a Debian virtual machine or container. Or boot your own kernel with \
                 `cargo xtask run --image NAME=PATH`"
            );
        }
        let suite = suite();
        let source = match mirror {
            Some(uri) => Source { uri: uri.to_owned(), keyring: Some(DEFAULT_KEYRING.to_owned()) },
            None => machine_source(&suite).with_context(|| {
                format!(
                    "no apt source of Debian {suite} found on this machine: give a Debian archive's address with \
                     --debian-mirror URL (and install the package debian-archive-keyring)"
                )
            })?,
        };
        let host_arch = Program::new("dpkg")
            .arg("--print-architecture")
            .capture()?
            .trim()
            .to_owned();
        let apt = Self {
            dir: paths::cache()?.join("apt"),
            host_arch,
        };
        for dir in ["state/lists/partial", "cache/archives/partial", "empty"] {
            fs::create_dir_all(apt.dir.join(dir))
                .with_context(|| format!("in {}", apt.dir.display()))?;
        }
        paths::write(&apt.dir.join("status"), "")?;
        // Backports are pinned low by default; here the newest version of either suite is the one wanted.
        paths::write(
            &apt.dir.join("preferences"),
            "Package: *\nPin: release a=*\nPin-Priority: 500\n",
        )?;

        let progress = spinner(&format!("Fetching Debian {suite}'s package lists"));
        let backports = format!("{suite}-backports");
        let updated = apt
            .write_sources(&source, &[&suite, &backports])
            .and_then(|()| apt.get(&["update"]).capture())
            // Testing and unstable have no backports.
            .or_else(|_| {
                apt.write_sources(&source, &[&suite])
                    .and_then(|()| apt.get(&["update"]).capture())
            });
        progress.finish_and_clear();
        updated.context("could not fetch Debian's package lists (is the network there?)")?;
        Ok(apt)
    }

    fn write_sources(&self, source: &Source, suites: &[&str]) -> Result<()> {
        let architectures = if self.host_arch == "arm64" {
            "arm64".to_owned()
        } else {
            format!("arm64,{}", self.host_arch)
        };
        let signed = source
            .keyring
            .as_ref()
            .filter(|path| Path::new(path).exists())
            .map(|path| format!(" signed-by={path}"))
            .unwrap_or_default();
        let text: String = suites
            .iter()
            .map(|suite| {
                format!(
                    "deb [arch={architectures}{signed}] {} {suite} main non-free-firmware\n",
                    source.uri
                )
            })
            .collect();
        paths::write(&self.dir.join("sources.list"), text)
    }

    fn options(&self) -> Vec<String> {
        let dir = self.dir.display();
        let mut options = vec![
            format!("Dir::State={dir}/state"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}/cache"),
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            format!("Dir::Etc::SourceParts={dir}/empty"),
            format!("Dir::Etc::Preferences={dir}/preferences"),
            format!("Dir::Etc::PreferencesParts={dir}/empty"),
            "APT::Architecture=arm64".to_owned(),
            format!("APT::Architectures=arm64,{}", self.host_arch),
            // The cache is in a home folder, where apt's own download user may not read.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "APT::Update::Error-Mode=any".to_owned(),
        ];
        options = options
            .into_iter()
            .flat_map(|option| ["-o".to_owned(), option])
            .collect();
        options
    }

    fn get(&self, arguments: &[&str]) -> Program {
        Program::new("apt-get")
            .args(self.options())
            .arg("--quiet")
            .args(arguments)
    }

    /// Looks a package up; `name` may end in `:arch`.
    pub fn show(&self, name: &str) -> Result<Package> {
        let text = Program::new("apt-cache")
            .args(self.options())
            .args(["show", "--no-all-versions", name])
            .capture()
            .with_context(|| format!("Debian's package lists have no {name}"))?;
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .map(str::to_owned)
        };
        let depends = field("Depends").unwrap_or_default();
        Ok(Package {
            name: name.to_owned(),
            version: field("Version").with_context(|| format!("package {name} has no version"))?,
            depends: depends
                .split([',', '|'])
                .filter_map(|d| d.split_whitespace().next())
                .map(str::to_owned)
                .collect(),
            size: field("Size").and_then(|s| s.parse().ok()).unwrap_or(0),
        })
    }

    /// Downloads `packages` (called `what` on the progress bar) into `dir`; apt checks them against the signed lists.
    pub fn download(&self, what: &str, packages: &[Package], dir: &Path) -> Result<()> {
        let names = packages.iter().map(|p| format!("{}={}", p.name, p.version));
        let total = packages.iter().map(|p| p.size).sum();
        watch(
            what,
            self.get(&["download"]).args(names).dir(dir),
            total,
            dir,
        )
    }

    /// Downloads a package for this machine, and everything it depends on down to the C library, into `dir`.
    ///
    /// The private apt has nothing installed, so its solver names the whole closure: what is unpacked from it runs
    /// whatever this machine has.
    pub fn download_with_dependencies(&self, name: &str, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir.join("partial")).with_context(|| format!("in {}", dir.display()))?;
        let of_host = |arguments: &[&str]| {
            self.get(&["--no-install-recommends", "--yes"])
                .args(["-o", &format!("APT::Architecture={}", self.host_arch)])
                .args(["-o", &format!("Dir::Cache::archives={}", dir.display())])
                .args(arguments)
                .args(["install", name])
        };
        // Lines of 'URI' FILE SIZE HASH.
        let total = of_host(&["--print-uris", "--quiet=2"])
            .capture()?
            .lines()
            .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
            .sum();
        watch(name, of_host(&["--download-only"]), total, dir)
    }
}

/// Unpacks every package in `dir` into `root`, running none of their scripts.
pub fn unpack(dir: &Path, root: &Path) -> Result<()> {
    let files = fs::read_dir(dir).with_context(|| format!("in {}", dir.display()))?;
    for package in files.flatten().map(|entry| entry.path()) {
        if package.extension().is_some_and(|e| e == "deb") {
            Program::new("dpkg-deb")
                .arg("-x")
                .args([package.as_path(), root])
                .capture()?;
        }
    }
    Ok(())
}

/// Runs a download into `dir` with a progress bar.
fn watch(what: &str, download: Program, total: u64, dir: &Path) -> Result<()> {
    let bar = ProgressBar::new(total).with_style(
        ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} ({eta} left)")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(format!("Downloading {what}"));
    let mut child = download
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("apt-get")?;
    let status = loop {
        if let Some(status) = child.try_wait().context("apt-get")? {
            break status;
        }
        bar.set_position(folder_size(dir));
        std::thread::sleep(Duration::from_millis(100));
    };
    bar.finish_and_clear();
    if !status.success() {
        let said = child
            .stderr
            .take()
            .map(std::io::read_to_string)
            .transpose()?
            .unwrap_or_default();
        bail!("could not download {what}:\n{}", said.trim_end());
    }
    Ok(())
}

/// A spinner with `message`, for steps whose length is not known.
pub fn spinner(message: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

fn folder_size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}

/// The suite to use: this machine's where it is Debian, else the stable one.
fn suite() -> String {
    match (os_release("ID"), os_release("VERSION_CODENAME")) {
        (Some(id), Some(codename)) if id == "debian" => codename,
        _ => "stable".to_owned(),
    }
}

/// The machine's own source of the Debian suite `suite`.
fn machine_source(suite: &str) -> Option<Source> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.into_iter().find_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        match path.extension()?.to_str()? {
            "list" => one_line_source(&text, suite),
            "sources" => deb822_source(&text, suite),
            _ => None,
        }
    })
}

/// From `deb [options] URI SUITE COMPONENTS` lines.
fn one_line_source(text: &str, suite: &str) -> Option<Source> {
    text.lines().find_map(|line| {
        let mut rest = line
            .trim()
            .strip_prefix("deb")?
            .strip_prefix([' ', '\t'])?
            .trim_start();
        let mut keyring = None;
        if let Some(options) = rest.strip_prefix('[') {
            let (options, after) = options.split_once(']')?;
            keyring = options
                .split_whitespace()
                .find_map(|o| o.strip_prefix("signed-by="))
                .map(str::to_owned);
            rest = after;
        }
        let mut words = rest.split_whitespace();
        let (uri, its_suite) = (words.next()?, words.next()?);
        (its_suite == suite && words.any(|component| component == "main")).then(|| Source {
            uri: uri.to_owned(),
            keyring: keyring.or_else(|| Some(DEFAULT_KEYRING.to_owned())),
        })
    })
}

/// From deb822 stanzas (`Types:`, `URIs:`, `Suites:`…).
fn deb822_source(text: &str, suite: &str) -> Option<Source> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let has = |name: &str, word: &str| {
            field(name).is_some_and(|v| v.split_whitespace().any(|w| w == word))
        };
        let enabled = field("Enabled").is_none_or(|v| v != "no");
        (enabled && has("Types", "deb") && has("Suites", suite) && has("Components", "main"))
            .then_some(())?;
        let uri = field("URIs")?.split_whitespace().next()?.to_owned();
        // Signed-By may also hold the key itself; then the host's keyring serves.
        let keyring = field("Signed-By")
            .filter(|v| v.starts_with('/'))
            .unwrap_or(DEFAULT_KEYRING)
            .to_owned();
        Some(Source {
            uri,
            keyring: Some(keyring),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_archive_from_both_styles_of_source() {
        let deb822 = "Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n\n\
                      Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main contrib\nSigned-By: /usr/share/keyrings/k.gpg\n";
        let expected = Source {
            uri: "http://mirror.example/debian".to_owned(),
            keyring: Some("/usr/share/keyrings/k.gpg".to_owned()),
        };
        assert_eq!(deb822_source(deb822, "bookworm").as_ref(), Some(&expected));
        let lines = "# deb http://no.example/debian bookworm main\n\
                     deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main\n";
        assert_eq!(one_line_source(lines, "bookworm"), Some(expected));
        assert_eq!(one_line_source(lines, "trixie"), None);
    }
}

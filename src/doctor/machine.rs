//! This machine: processor, memory, disk, and the kernel's settings (proc(5)).

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, Part, Reading, Verdict, float};
use super::limits::{
    HOST_CPU, HOST_DISK, HOST_MEMORY, Limit, MAX_MAP_COUNT, OPEN_FILES, SWAPPINESS,
};

/// The processor is watched for so long.
const CPU_WATCH: Duration = Duration::from_millis(500);
/// A name of a host is looked up for so long.
const LOOK_UP: Duration = Duration::from_secs(2);
const ENGINES_WANT: &str = "no engine of the file is on this machine";

/// The figures that change: also the gauges of every process.
pub(crate) async fn load(root: &Path, data_dir: &Path) -> Vec<Finding> {
    let before = Processor::read(root);
    tokio::time::sleep(CPU_WATCH).await;
    let cpu = before.zip(Processor::read(root)).and_then(|(before, after)| after.since(before));
    let known = |limit: &'static Limit, value: Option<f64>, file: &str| match value {
        Some(value) => Finding::of(limit, value),
        None => Finding::reading(limit, Reading::Unknown(format!("{file} cannot be read"))),
    };
    let data_dir = existing(data_dir);
    vec![
        known(&HOST_CPU, cpu, "/proc/stat"),
        known(&HOST_MEMORY, memory_used(root), "/proc/meminfo"),
        known(&HOST_DISK, disk_used(data_dir), &data_dir.display().to_string())
            .noting(data_dir.display().to_string()),
    ]
}

/// The kernel's settings. Those that engines want are judged where one is on this machine.
pub(crate) fn settings(root: &Path, is_with_engines: bool) -> Vec<Finding> {
    let number = |limit: &'static Limit, file: &str| {
        let value = read(root, file).and_then(|text| text.parse::<u64>().ok());
        match value {
            Some(value) if is_with_engines => Finding::count(limit, value),
            Some(value) => {
                Finding::told(Part::Machine, limit.check, value.to_string()).noting(ENGINES_WANT)
            }
            None => Finding::reading(limit, Reading::Unknown(format!("/{file} cannot be read"))),
        }
    };
    vec![
        open_files(root),
        number(&MAX_MAP_COUNT, "proc/sys/vm/max_map_count"),
        swap(root, is_with_engines, number(&SWAPPINESS, "proc/sys/vm/swappiness")),
        huge_pages(root, is_with_engines),
        clock(root),
    ]
}

fn read(root: &Path, file: &str) -> Option<String> {
    Some(std::fs::read_to_string(root.join(file)).ok()?.trim().to_owned())
}

/// Of this command: the same shell or service manager starts a cell with the same limit.
fn open_files(root: &Path) -> Finding {
    let limits = read(root, "proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => Finding::told(Part::Machine, OPEN_FILES.check, "unlimited"),
        Some(soft) => match soft.parse() {
            Ok(soft) => Finding::count(&OPEN_FILES, soft).noting("of this shell"),
            Err(_) => unread(&OPEN_FILES, "/proc/self/limits"),
        },
        None => unread(&OPEN_FILES, "/proc/self/limits"),
    }
}

fn unread(limit: &'static Limit, file: &str) -> Finding {
    Finding::reading(limit, Reading::Unknown(format!("{file} cannot be read")))
}

/// Where there is no swap, its setting is of no interest.
fn swap(root: &Path, is_with_engines: bool, swappiness: Finding) -> Finding {
    let info = read(root, "proc/meminfo").unwrap_or_default();
    if field(&info, "SwapTotal:") == Some(0) {
        return Finding::told(Part::Machine, "swap", "none");
    }
    let used = field(&info, "SwapTotal:").zip(field(&info, "SwapFree:"));
    match used.map(|(total, free)| total.saturating_sub(free)) {
        Some(used) if is_with_engines && used > 0 => {
            swappiness.noting(format!("{used} KiB of swap in use"))
        }
        Some(_) | None => swappiness,
    }
}

/// `always` makes pauses of milliseconds and doubles the memory of small allocations.
fn huge_pages(root: &Path, is_with_engines: bool) -> Finding {
    const CHECK: &str = "transparent huge pages";
    let Some(modes) = read(root, "sys/kernel/mm/transparent_hugepage/enabled") else {
        return Finding::told(Part::Machine, CHECK, "none");
    };
    let mode = modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
    let mode = mode.unwrap_or("?").to_owned();
    if !is_with_engines {
        return Finding::told(Part::Machine, CHECK, mode).noting(ENGINES_WANT);
    }
    let verdict = if mode == "always" { Verdict::Warn } else { Verdict::Ok };
    let advice = "Redis and ClickHouse ask for madvise: echo madvise > \
                  /sys/kernel/mm/transparent_hugepage/enabled";
    Finding::fact(Part::Machine, CHECK, (mode, verdict), advice)
}

/// What is seen of a service that keeps the clock: no proof that it is right.
fn clock(root: &Path) -> Finding {
    let seen = [
        ("run/systemd/timesync/synchronized", "systemd-timesyncd, synchronised"),
        ("run/chrony/chronyd.pid", "chronyd runs"),
        ("run/chronyd.pid", "chronyd runs"),
        ("run/ntpd.pid", "ntpd runs"),
    ];
    let found = seen.into_iter().find(|(file, _)| root.join(file).exists());
    let check = "time synchronisation";
    match found {
        Some((_, words)) => Finding::told(Part::Machine, check, words),
        None => {
            let why = "neither systemd-timesyncd nor chronyd nor ntpd is seen (a container does not \
                       see its host's): compare `date` over the machines";
            let reading = Reading::Untold(why.to_owned());
            Finding { reading, ..Finding::told(Part::Machine, check, "") }
        }
    }
}

/// Times of all processors since the start of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Processor {
    idle: u64,
    all: u64,
}

impl Processor {
    fn read(root: &Path) -> Option<Self> {
        let stat = read(root, "proc/stat")?;
        let times = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal; what guests take is in user.
        let times: Vec<u64> =
            times.split_whitespace().take(8).filter_map(|text| text.parse().ok()).collect();
        let idle = times.iter().skip(3).take(2).sum();
        Some(Self { idle, all: times.iter().sum() })
    }

    fn since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let idle = self.idle.saturating_sub(before.idle);
        Some(float(all.saturating_sub(idle)) / float(all))
    }
}

fn memory_used(root: &Path) -> Option<f64> {
    let info = read(root, "proc/meminfo")?;
    let (total, available) = (field(&info, "MemTotal:")?, field(&info, "MemAvailable:")?);
    (total > 0).then(|| 1.0 - float(available) / float(total))
}

fn field(info: &str, name: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The nearest directory above that exists: a cell that never ran has none yet.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("."))
}

/// Share of the file system that is used, of what others than its administrator may use.
pub(crate) fn disk_used(path: &Path) -> Option<f64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let all = used.saturating_add(stat.f_bavail);
    (all > 0).then(|| float(used) / float(all))
}

/// Whether a host is this machine: an address can be bound that is its own.
pub(crate) async fn is_here(host: &str) -> bool {
    let looked_up = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, 0_u16))).await;
    let Ok(Ok(addresses)) = looked_up else { return false };
    let mut addresses = addresses.map(|address| address.ip());
    addresses.any(|address: IpAddr| UdpSocket::bind((address, 0)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn verdicts(findings: &[Finding]) -> Vec<(&'static str, Verdict)> {
        findings.iter().map(|finding| (finding.check, finding.verdict())).collect()
    }

    #[test]
    fn settings_that_engines_want_are_judged_where_there_is_one() {
        let limits =
            "Limit      Soft Limit  Hard Limit  Units\nMax open files   1024   524288  files\n";
        let root = root(&[
            ("proc/self/limits", limits),
            ("proc/sys/vm/max_map_count", "65530\n"),
            ("proc/sys/vm/swappiness", "60\n"),
            ("proc/meminfo", "SwapTotal: 100 kB\nSwapFree: 40 kB\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
            ("run/chrony/chronyd.pid", "7"),
        ]);
        let with = settings(root.path(), true);
        assert_eq!(
            verdicts(&with),
            [
                ("open files limit", Verdict::Warn),
                ("vm.max_map_count", Verdict::Warn),
                ("vm.swappiness", Verdict::Warn),
                ("transparent huge pages", Verdict::Warn),
                ("time synchronisation", Verdict::Ok),
            ]
        );
        assert_eq!(with[2].value(), "60 (60 KiB of swap in use)");
        let without = settings(root.path(), false);
        let troubled: Vec<_> = without.iter().filter(|finding| finding.is_trouble()).collect();
        assert_eq!(troubled.len(), 1, "the open files are of a cell as well: {troubled:?}");
        assert_eq!(without[1].value(), "65530 (no engine of the file is on this machine)");
    }

    #[test]
    fn a_machine_without_swap_needs_no_setting_and_what_is_missing_is_said() {
        let root = root(&[("proc/meminfo", "SwapTotal: 0 kB\n")]);
        let found = settings(root.path(), true);
        assert_eq!((found[2].check, found[2].value().as_str()), ("swap", "none"));
        assert_eq!(found[1].verdict(), Verdict::Unknown);
        assert!(found[1].is_trouble());
        assert!(!found[4].is_trouble(), "a clock that nobody is seen to keep is no failure");
    }

    #[test]
    fn the_processor_is_busy_by_what_it_was_not_idle() {
        let before = root(&[("proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1\n")]);
        let after = root(&[("proc/stat", "cpu  150 0 110 730 110 0 0 0 9 9\n")]);
        let read = |root: &tempfile::TempDir| Processor::read(root.path()).unwrap();
        assert_eq!(read(&after).since(read(&before)), Some(0.6));
        assert_eq!(read(&before).since(read(&before)), None);
    }

    #[tokio::test]
    async fn this_machine_has_load_and_loopback() {
        let here = tempfile::tempdir().unwrap();
        let found = load(Path::new("/"), &here.path().join("not/made/yet")).await;
        for finding in &found {
            let Reading::Number(share) = finding.reading else { panic!("{finding:?}") };
            assert!((0.0..=1.0).contains(&share), "{finding:?}");
        }
        assert!(is_here("127.0.0.1").await);
        // An address of documentation (RFC 5737): of nobody.
        assert!(!is_here("192.0.2.1").await);
    }
}

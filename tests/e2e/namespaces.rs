//! The harness itself: the network it makes is separate, counts, and can be cut; nothing is left of it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_tests::lab::{Lab, RELAY_IP};
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::process::{Process, run};
use hearth_tests::room::{Room, Walls};
use hearth_tests::scratch::Scratch;
use hearth_tests::watch::until_file;

#[test]
fn a_lab_connects_its_hosts_and_leads_nowhere_else() -> Result<()> {
    let scratch = Scratch::new()?;
    let lab = Lab::new(&["laptop"], scratch.path())?;
    let laptop = lab.host("laptop")?;
    let routes = laptop.run(&["ip", "route"])?;
    ensure!(!routes.contains("default"), "nothing leads out: {routes}");
    let listener = "exec 3<>/dev/tcp/10.77.0.1/7";
    let refused = run(laptop.enter("bash").args(["-c", listener]), Duration::from_secs(10))?;
    ensure!(refused.stderr.contains("refused"), "the relay's host answers: {}", refused.stderr);
    let counted = lab.traffic("relay")?;
    ensure!(counted.received > 0 && counted.sent > 0, "its traffic is counted: {counted:?}");
    lab.cable("relay", false)?;
    let cut = run(laptop.enter("timeout").args(["1", "bash", "-c", listener]), Duration::from_secs(10))?;
    ensure!(cut.code != 0 && !cut.stderr.contains("refused"), "{RELAY_IP} is out of reach: {}", cut.stderr);
    Ok(())
}

#[test]
fn traffic_is_captured_at_the_bridge() -> Result<()> {
    let scratch = Scratch::new()?;
    let lab = Lab::new(&["laptop"], scratch.path())?;
    let file = scratch.path().join("traffic");
    let mut capture = lab.capture(&file)?;
    let canary = "canary-in-the-clear-0451";
    let send = format!("echo {canary} > /dev/udp/{RELAY_IP}/9");
    lab.host("laptop")?.run(&["bash", "-c", &send])?;
    until_file(&file, Duration::from_secs(10), |file| {
        let bytes = fs::read(file).ok()?;
        bytes.windows(canary.len()).any(|window| window == canary.as_bytes()).then_some(())
    })?;
    capture.kill()
}

#[test]
fn a_small_disk_is_full_soon_and_seen_from_outside() -> Result<()> {
    let scratch = Scratch::new()?;
    let room = Room::new("small", Walls { mounts: true, ..Walls::default() }, scratch.path())?;
    let disk = scratch.path().join("disk");
    fs::create_dir(&disk)?;
    room.small_disk(&disk, 1 << 20)?;
    let path = disk.join("file");
    let path = path.to_str().context("a scratch path is text")?;
    ensure!(room.run(&["dd", "if=/dev/zero", &format!("of={path}"), "bs=1M", "count=2"]).is_err(), "no room for two");
    ensure!(fs::metadata(room.outside(&disk.join("file")))?.len() <= 1 << 20);
    ensure!(!disk.join("file").exists(), "other rooms do not see it");
    Ok(())
}

#[test]
fn two_machines_have_settings_of_their_own() -> Result<()> {
    let scratch = Scratch::new()?;
    let laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    let desktop = Machine::new(scratch.path(), "desktop", Kind::default())?;
    laptop.gsettings(&["set", "org.gnome.desktop.interface", "clock-format", "12h"])?;
    laptop.until_setting("org.gnome.desktop.interface", "clock-format", "'12h'", Duration::from_secs(10))?;
    ensure!(desktop.gsettings(&["get", "org.gnome.desktop.interface", "clock-format"])? == "'24h'");
    ensure!(laptop.dconf(&["read", "/org/gnome/desktop/interface/clock-format"])? == "'12h'");
    ensure!(laptop.path(".config/dconf/user").exists(), "the real service wrote its file in the home");
    Ok(())
}

#[test]
fn nothing_outlives_the_process_that_started_it() -> Result<()> {
    let scratch = Scratch::new()?;
    let lab = Lab::new(&["laptop"], scratch.path())?;
    let name = scratch.path().to_str().context("a scratch path is text")?.to_owned();
    let room = lab.host("laptop")?.clone();
    let mut sleeper = room.enter("sh");
    sleeper.args(["-c", "sleep 1000 & wait", &name]);
    let process = Process::spawn("sleeper", sleeper, &scratch.path().join("sleeper.log"), false)?;
    drop(process);
    drop((room, lab));
    let listed = run(Command::new("ps").args(["-eo", "args"]), Duration::from_secs(10))?;
    let left = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(!left.contains(&format!("wait {name}")), "{left}");
    Ok(())
}

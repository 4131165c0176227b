//! Nothing a person wrote reaches the relay or the wire: unique strings go into names, contents and setting values,
//! the machines do all they can do, and then the strings are looked for in everything the relay has or had.

use std::fs;

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::{Displaced, Invitation};
use hearth_tests::canary::{Canaries, in_file, in_folder, in_memory};
use hearth_tests::pair::{LATER, Pair, SOON, init};
use hearth_tests::tree;
use serde_json::Value;

#[test]
fn nothing_a_person_wrote_is_found_at_the_relay_or_on_the_wire() -> Result<()> {
    let mut canaries = Canaries::default();
    let mut pair = Pair::strangers_logging("trace")?;
    let capture_file = pair.scratch().join("traffic");
    let mut capture = pair.lab.capture(&capture_file)?;

    whole_story(&mut pair, &mut canaries)?;

    let relay = pair.relay.pid().context("the relay runs")?;
    let mut found = in_memory(relay, &canaries)?;
    // This process made the canaries: that they are found in it proves the search.
    ensure!(!in_memory(std::process::id(), &canaries)?.is_empty(), "the search finds what is in a memory");

    pair.relay.stop()?;
    capture.kill()?;
    ensure!(fs::metadata(&capture_file)?.len() > 1 << 20, "the traffic was captured");
    found.extend(in_file(&capture_file, &canaries)?);
    found.extend(in_file(&pair.relay.log(), &canaries)?);
    found.extend(in_folder(&pair.relay.data(), &canaries)?);
    ensure!(found.is_empty(), "found at the relay or on the wire:\n  {}", found.join("\n  "));
    Ok(())
}

/// Everything that sends something: enrolment, names, contents, settings, renames, conflicts, restores, revocation.
fn whole_story(pair: &mut Pair, canaries: &mut Canaries) -> Result<()> {
    let relay = pair.relay.address().to_owned();
    let made = init(&pair.laptop, &relay)?;
    canaries.plant("the recovery phrase", made.phrase.clone());
    let invitation: Invitation = pair.laptop.ask(["device", "add"])?;
    let words = invitation.code.split_once('-').context("a number and words")?.1;
    canaries.plant("the words of the code", words.to_owned());
    let device = canaries.make("a device name");
    let _: Value = pair.desktop.ask(["join", &invitation.code, "--relay", &relay, "--name", &device])?;

    let (name, folder) = (canaries.make("a file name"), canaries.make("a folder name"));
    let content = canaries.make("a small content");
    pair.laptop.write(format!("{folder}/{name}.txt"), &content)?;
    let big = canaries.make("a big content");
    let big_content = [big.as_bytes().repeat(20_000), tree::noise(3, 2 << 20), big.as_bytes().to_vec()].concat();
    pair.laptop.write("big.bin", &big_content)?;
    let target = canaries.make("a link target");
    std::os::unix::fs::symlink(&target, pair.laptop.path("link"))?;
    pair.desktop.until_content(format!("{folder}/{name}.txt"), content.as_bytes(), SOON)?;
    pair.desktop.until_content("big.bin", &big_content, LATER)?;

    let font = canaries.make("a setting value");
    pair.laptop.gsettings(&["set", "org.gnome.desktop.input-sources", "xkb-options", &format!("['{font}']")])?;
    let options = format!("['{font}']");
    pair.desktop.until_setting("org.gnome.desktop.input-sources", "xkb-options", &options, SOON)?;

    let renamed = canaries.make("a name after a rename");
    fs::rename(pair.laptop.path(&folder), pair.laptop.path(&renamed))?;
    pair.desktop.until_there(format!("{renamed}/{name}.txt"), true, SOON)?;
    pair.settle(LATER)?;

    pair.lab.cable("desktop", false)?;
    let (here, there) = (canaries.make("one side of a conflict"), canaries.make("the other side"));
    pair.laptop.write(format!("{renamed}/{name}.txt"), &here)?;
    pair.desktop.write(format!("{renamed}/{name}.txt"), &there)?;
    pair.lab.cable("desktop", true)?;
    pair.settle(LATER)?;

    fs::remove_file(pair.laptop.path("big.bin"))?;
    pair.desktop.until_there("big.bin", false, SOON)?;
    pair.settle(SOON)?;
    let path = pair.desktop.home_inside().join("big.bin");
    let path = path.to_str().context("a scratch path is text")?;
    let rows: Vec<Displaced> = pair.desktop.ask(["history", path])?;
    let row = rows.first().context("the deleted file is in history")?;
    let _: Value = pair.desktop.ask(["restore", path, "--version", &row.version])?;
    pair.laptop.until_content("big.bin", &big_content, LATER)?;

    let _: Value = pair.laptop.ask(["device", "rename", &device, &canaries.make("another device name")])?;
    pair.settle(SOON)
}

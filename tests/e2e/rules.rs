//! What stays on its machine, why, and how a person decides otherwise.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, ensure};
use hearth_tests::machine::Machine;
use hearth_tests::pair::{LATER, Pair, SOON};
use serde_json::Value;

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a program\n";

#[test]
fn a_marked_directory_stays_where_it_is_and_says_which_file_decided() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    laptop.write("app/store/CACHEDIR.TAG", TAG)?;
    laptop.write("app/store/big", "can be made again")?;
    laptop.write("notes/CACHEDIR.TAG", "not a tag at all")?;
    laptop.write("videos/raw/take.mov", "a take")?;
    pair.settle(SOON)?;
    ensure!(!desktop.path("app/store").exists(), "a cache travelled");
    ensure!(desktop.path("notes/CACHEDIR.TAG").exists(), "a file that is called like a tag is none");
    ensure!(desktop.read("videos/raw/take.mov")? == b"a take");

    laptop.write("videos/raw/.nobackup", "")?;
    pair.settle(SOON)?;
    desktop.write("videos/raw/take.mov", "a take, cut")?;
    desktop.write("videos/raw/other.mov", "another")?;
    pair.settle(SOON)?;
    ensure!(laptop.read("videos/raw/take.mov")? == b"a take" && !laptop.path("videos/raw/other.mov").exists());
    ensure!(!desktop.path("videos/raw/.nobackup").exists(), "a marker travelled");
    let told = why(laptop, "videos/raw/take.mov")?;
    ensure!(told["travels"] == false && told["class"] == "ignore", "{told}");
    ensure!(told["marker"] == "videos/raw/.nobackup" && told["when"] == "inside:.nobackup", "{told}");
    let told = why(desktop, "videos/raw/take.mov")?;
    ensure!(told["travels"] == true && told["marker"].is_null(), "{told}");

    fs::remove_file(laptop.path("videos/raw/.nobackup"))?;
    laptop.until_content("videos/raw/take.mov", b"a take, cut", LATER)?;
    laptop.until_content("videos/raw/other.mov", b"another", LATER)?;
    pair.settle(SOON)?;
    ensure!(laptop.ask::<Value>(["conflicts"])?.as_array().is_some_and(Vec::is_empty), "nothing clashed");
    Ok(())
}

#[test]
fn an_image_of_a_machine_waits_for_an_answer_and_arrives_with_its_holes() -> Result<()> {
    const SIZE: u64 = 20 << 30;
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let image = File::create(laptop.path("windows.qcow2"))?;
    image.set_len(SIZE)?;
    image.write_all_at(b"a disk", 700 << 20)?;
    drop(image);
    laptop.write("other.qcow2", "small")?;
    pair.settle(SOON)?;
    ensure!(!desktop.path("windows.qcow2").exists(), "it came unasked");
    let asking: Vec<Value> = laptop.ask(["rules", "list", "--asking"])?;
    let listed = asking.iter().find(|told| told["path"] == "windows.qcow2");
    ensure!(listed.is_some_and(|told| told["bytes"] == SIZE), "{asking:?}");

    laptop.ask::<Value>(["rules", "add", "/windows.qcow2", "shared"])?;
    laptop.ask::<Value>(["rules", "add", "/other.qcow2", "never"])?;
    desktop.until_there("windows.qcow2", true, LATER)?;
    pair.settle(LATER)?;
    let there = fs::metadata(desktop.path("windows.qcow2"))?;
    ensure!(there.len() == SIZE && there.blocks() * 512 < 64 << 20, "{} blocks", there.blocks());
    ensure!(!desktop.path("other.qcow2").exists() && laptop.path("other.qcow2").exists(), "a no is a no");
    ensure!(laptop.ask::<Vec<Value>>(["rules", "list", "--asking"])?.is_empty(), "all is answered");
    Ok(())
}

#[test]
fn no_rule_that_is_added_or_removed_deletes_anything() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    laptop.write("things/a/b.txt", "one")?;
    laptop.write("things/c.txt", "two")?;
    pair.settle(SOON)?;
    let all_there = |when: &str| -> Result<()> {
        for machine in [laptop, desktop] {
            ensure!(machine.read("things/a/b.txt")? == b"one", "{when}: a file is gone");
            ensure!(machine.read("things/c.txt")? == b"two", "{when}: a file is gone");
        }
        Ok(())
    };
    let classes = ["never", "shared", "ignore", "app-gated", "device", "asset", "ask", "merge:lines", "form-factor"];
    for class in classes.into_iter().chain(classes.into_iter().rev()) {
        laptop.ask::<Value>(["rules", "add", "/things/", class])?;
        pair.settle(SOON)?;
        all_there(class)?;
    }
    desktop.ask::<Value>(["rules", "add", "/things/a/", "never", "--on", "desktop"])?;
    pair.settle(SOON)?;
    laptop.ask::<Value>(["rules", "remove", "/things/"])?;
    pair.settle(SOON)?;
    desktop.ask::<Value>(["rules", "remove", "/things/a/", "--on", "desktop"])?;
    pair.settle(SOON)?;
    all_there("at the end")?;
    pair.assert_alike()
}

fn why(machine: &Machine, path: &str) -> Result<Value> {
    let path = machine.home_inside().join(path);
    machine.ask([std::ffi::OsStr::new("why"), path.as_os_str()])
}

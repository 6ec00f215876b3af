#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use super::*;
use crate::run_dir::tests::run;

fn save(run: &RunDir, step: u64, best: bool, keep: usize) -> PathBuf {
    let writer = CheckpointWriter::create(run, step).expect("made");
    fs::write(writer.dir().join("weights"), format!("weights of {step}")).expect("written");
    fs::write(writer.dir().join("state"), "{}").expect("written");
    writer.publish(best, keep).expect("published")
}

fn saved(run: &RunDir) -> Vec<u64> {
    steps(&run.checkpoints()).expect("readable").into_iter().map(|(step, _)| step).collect()
}

#[test]
fn a_published_checkpoint_verifies_and_is_latest() {
    let (_dir, run) = run();
    assert!(latest_verified(&run).expect("readable").0.is_none());
    let path = save(&run, 500, true, 3);
    assert_eq!(path, run.checkpoints().join("step-000500"));
    let manifest = verify(&path).expect("whole");
    assert_eq!((manifest.step, manifest.files.len()), (500, 2));
    assert_eq!(fs::read_to_string(run.checkpoints().join("latest")).expect("readable"), "step-000500\n");
    assert_eq!(latest_verified(&run).expect("readable").0.expect("one").path, path);
    assert_eq!(best_verified(&run).expect("whole").expect("one").path, path);
}

#[test]
fn best_can_be_marked_after_publishing() {
    let (_dir, run) = run();
    save(&run, 1, true, 1);
    save(&run, 2, false, 1);
    assert_eq!(saved(&run), [1, 2], "the best is kept");
    mark_best(&run, 2, 1).expect("written");
    assert_eq!(best_verified(&run).expect("whole").expect("one").manifest.step, 2);
    assert_eq!(saved(&run), [2], "the former best is pruned");
}

#[test]
fn each_damage_is_found_and_named() {
    let (_dir, run) = run();
    let path = save(&run, 1, false, 3);
    let text = fs::read_to_string(path.join(MANIFEST)).expect("readable");
    let damage = |change: &dyn Fn()| {
        change();
        let damage = verify(&path).expect_err("damaged");
        fs::write(path.join(MANIFEST), &text).expect("written");
        fs::write(path.join("weights"), "weights of 1").expect("written");
        verify(&path).expect("whole again");
        damage
    };
    let manifest = |text: String| fs::write(path.join(MANIFEST), text).expect("written");
    let weights = |text: &str| fs::write(path.join("weights"), text).expect("written");
    assert!(matches!(damage(&|| fs::remove_file(path.join(MANIFEST)).expect("removed")), Damage::NoManifest));
    assert!(matches!(damage(&|| manifest("{".into())), Damage::Manifest(_)));
    assert!(matches!(damage(&|| manifest(" ".repeat(2 << 20))), Damage::Manifest(_)));
    assert!(matches!(damage(&|| manifest(text.replace("\"format\": 1", "\"format\": 9"))), Damage::Format(9)));
    assert!(matches!(damage(&|| fs::remove_file(path.join("weights")).expect("removed")), Damage::Missing(_)));
    assert!(matches!(damage(&|| weights("weights of ")), Damage::Size { expected: 12, found: 11, .. }));
    assert!(matches!(damage(&|| weights("weights of 2")), Damage::Content(_)));
    for name in ["../../run.json", "/etc/hostname", "..", "a/b", "a\\\\b", ""] {
        let damage = damage(&|| manifest(text.replace("\"weights\"", &format!("\"{name}\""))));
        assert!(matches!(damage, Damage::FileName(_)), "{name}: {damage}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let (_dir, run) = run();
    let path = save(&run, 1, false, 3);
    for name in ["weights", "state", MANIFEST] {
        let whole = fs::read(path.join(name)).expect("readable");
        for byte in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1;
            fs::write(path.join(name), &flipped).expect("written");
            // A changed byte must be found unless it is white space in the manifest, which leaves the parsed value
            // unchanged.
            let same = verify_of(&run, 1, &path).is_ok();
            let parse = |bytes: &[u8]| serde_json::from_slice::<Manifest>(bytes).ok();
            assert!(!same || name == MANIFEST && parse(&flipped) == parse(&whole), "{name} byte {byte}");
        }
        fs::write(path.join(name), whole).expect("written");
    }
}

#[test]
fn the_newest_valid_checkpoint_is_used_and_pointers_are_ignored() {
    let (_dir, run) = run();
    save(&run, 100, false, 9);
    save(&run, 200, false, 9);
    let newest = save(&run, 300, true, 9);
    fs::write(newest.join("weights"), "").expect("written");
    fs::create_dir(run.checkpoints().join("step-400")).expect("made");
    fs::create_dir(run.checkpoints().join("step-000400")).expect("made");
    fs::write(run.checkpoints().join("latest"), "step-999999\n").expect("written");

    let (found, damaged) = latest_verified(&run).expect("readable");
    assert_eq!(found.expect("one").manifest.step, 200);
    let damaged: Vec<_> = damaged.iter().map(ToString::to_string).collect();
    assert!(damaged[0].contains("step-000400") && damaged[0].contains("MANIFEST.json"), "{damaged:?}");
    assert!(damaged[1].contains("step-000300") && damaged[1].contains("0 bytes"), "{damaged:?}");
    assert!(best_verified(&run).is_err());
}

#[test]
fn a_checkpoint_of_another_plan_or_step_does_not_count() {
    let (_dir, run) = run();
    let foreign = save(&run, 1, false, 3);
    let manifest = Manifest { plan_hash: "another".to_owned(), ..verify(&foreign).expect("whole") };
    write_manifest(&foreign, &manifest).expect("written");
    let path = save(&run, 2, false, 3);
    durable::publish_dir(&path, &run.checkpoints().join("step-000003")).expect("renamed");
    let (found, damaged) = latest_verified(&run).expect("readable");
    assert!(found.is_none());
    assert!(matches!(&damaged[0], CheckpointError::Damaged { damage: Damage::Step { .. }, .. }));
    assert!(matches!(&damaged[1], CheckpointError::Damaged { damage: Damage::Plan, .. }));
}

#[test]
fn fields_of_later_versions_are_ignored() {
    let (_dir, run) = run();
    let path = save(&run, 1, false, 3);
    let text = fs::read_to_string(path.join(MANIFEST)).expect("readable");
    let text = text.replacen('{', "{\"later\": [1],", 1).replace("\"size\"", "\"later\": 1, \"size\"");
    fs::write(path.join(MANIFEST), text).expect("written");
    assert_eq!(latest_verified(&run).expect("readable").0.expect("one").manifest.step, 1);
}

#[test]
fn pruning_keeps_the_newest_and_the_best() {
    let (_dir, run) = run();
    save(&run, 1, true, 2);
    for step in 2..=5 {
        save(&run, step, false, 2);
    }
    assert_eq!(saved(&run), [1, 4, 5]);
    save(&run, 6, true, 2);
    assert_eq!(saved(&run), [5, 6]);
    assert!(latest_verified(&run).expect("readable").1.is_empty());
}

#[test]
fn unpublished_checkpoints_are_removed() {
    let (_dir, run) = run();
    let writer = CheckpointWriter::create(&run, 1).expect("made");
    // As after a kill.
    std::mem::forget(writer);
    let writer = CheckpointWriter::create(&run, 1).expect("made");
    assert_eq!(fs::read_dir(run.checkpoints()).expect("readable").count(), 1);
    drop(writer);
    assert_eq!(fs::read_dir(run.checkpoints()).expect("readable").count(), 0);
}

#[test]
fn a_step_can_be_saved_again() {
    let (_dir, run) = run();
    let path = save(&run, 1, false, 3);
    fs::write(path.join("weights"), "damaged").expect("written");
    save(&run, 1, false, 3);
    verify(&path).expect("whole");
}

#[test]
fn a_checkpoint_with_a_directory_is_refused() {
    let (_dir, run) = run();
    let writer = CheckpointWriter::create(&run, 1).expect("made");
    fs::create_dir(writer.dir().join("deep")).expect("made");
    assert!(matches!(writer.publish(false, 3), Err(CheckpointError::NotAFile { .. })));
    assert!(saved(&run).is_empty());
}

use crate::{ChatTemplate, Message, Rendering};
use serde_json::Value;

#[test]
fn scratch() {
    let data: Value = serde_json::from_str(&std::fs::read_to_string("/tmp/ds/parity.json").unwrap()).unwrap();
    let now: jiff::Zoned = jiff::civil::date(2026, 11, 24).at(9, 5, 3, 0).in_tz("UTC").unwrap();
    let special = || vec![("bos_token","<s>".to_owned()),("eos_token","</s>".to_owned()),("pad_token","<pad>".to_owned()),("unk_token","<unk>".to_owned())];
    let mut compiled = std::collections::BTreeMap::new();
    for (name, source) in data["templates"].as_object().unwrap() {
        match ChatTemplate::new(source.as_str().unwrap(), special(), now.clone()) {
            Ok(t) => { compiled.insert(name.clone(), t); }
            Err(e) => println!("COMPILE {name}: {e}"),
        }
    }
    let (mut same, mut differ, mut both) = (0, 0, 0);
    for case in data["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let Some(t) = compiled.get(name) else { continue };
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(|m| Message::from_fields(m.as_object().unwrap().clone()).unwrap()).collect();
        let r = Rendering { messages: &messages, tools: case["tools"].as_array().map(|_| &case["tools"]), add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap() };
        let got = t.render(r);
        let id = format!("{name}/{}/tools={}/gen={}", case["conversation"].as_str().unwrap(), case["tools"].is_array(), case["add_generation_prompt"]);
        match (&got, case.get("text").and_then(Value::as_str)) {
            (Ok(g), Some(w)) if g == w => {
                same += 1;
                if let Some(marks) = case["marks"].as_array() {
                    let to_char = |b: usize| g[..b].chars().count() as u64;
                    match t.render_marked(r) {
                        Ok((_, ranges)) => {
                            let ours: Vec<(u64, u64)> = ranges.iter().map(|r| (to_char(r.start), to_char(r.end))).collect();
                            let theirs: Vec<(u64, u64)> = marks.iter().map(|m| (m[0].as_u64().unwrap(), m[1].as_u64().unwrap())).filter(|(a,b)| a<b).collect();
                            if ours != theirs { println!("MARKS {id}: ours {ours:?} theirs {theirs:?}"); }
                        }
                        Err(e) => println!("MARKS {id}: {e} theirs {marks:?}"),
                    }
                }
            }
            (Ok(g), Some(w)) => { differ += 1; let at = g.bytes().zip(w.bytes()).take_while(|(a,b)| a==b).count(); let lo=at.saturating_sub(30); println!("DIFF {id}: ours {:?} | theirs {:?}", String::from_utf8_lossy(&g.as_bytes()[lo..g.len().min(at+50)]), String::from_utf8_lossy(&w.as_bytes()[lo..w.len().min(at+50)])); }
            (Err(_), None) => both += 1,
            (Ok(_), None) => { println!("WE RENDER {id}: they {}", case["error"]); }
            (Err(e), Some(_)) => { differ += 1; println!("FAIL {id}: {e}"); }
        }
    }
    println!("same {same} differ {differ} both fail {both}");
}

#[test]
fn scratch_labels() {
    let d: Value = serde_json::from_str(&std::fs::read_to_string("/tmp/ds/labels.json").unwrap()).unwrap();
    let t = crate::ChatTokenizer::new(crate::TokenizerSpec {
        tokenizer_json: std::fs::read("/root/.cache/tonfall/models/SmolLM2-135M-Instruct-f32/tokenizer.json").unwrap(),
        chat_template: Some(d["template"].as_str().unwrap().to_owned()),
        bos_token: d["bos"].as_str().map(str::to_owned), eos_token: d["eos"].as_str().map(str::to_owned),
        vocab_size: 49152, ..Default::default() }).unwrap();
    println!("stop {:?}", t.stop_ids());
    let (mut ok, mut bad) = (0, 0);
    for row in d["rows"].as_array().unwrap() {
        let messages: Vec<Message> = row["messages"].as_array().unwrap().iter().map(|m| Message::from_fields(m.as_object().unwrap().clone()).unwrap()).collect();
        let l = crate::label_sample(&crate::Sample::Conversation(crate::Conversation{messages, tools: None}), &t, tonfall_recipes::plan::TrainOn::Assistant).unwrap();
        let ids: Vec<u32> = row["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let mask: Vec<bool> = row["mask"].as_array().unwrap().iter().map(|v| v.as_u64() == Some(1)).collect();
        let ours: Vec<bool> = l.labels.iter().map(|l| *l != -100).collect();
        if ids == l.input_ids && mask == ours { ok += 1 } else { bad += 1; println!("ids {} mask {} straddling {} {:?}", ids == l.input_ids, mask == ours, l.straddling, row["messages"].to_string()); }
    }
    println!("labels ok {ok} bad {bad}");
    // speed
    let rows = d["rows"].as_array().unwrap();
    let text: String = (0..20000).map(|i| serde_json::json!({"messages": rows[i % 200]["messages"]}).to_string() + "\n").collect();
    let dir = tempfile::tempdir().unwrap();
    let path = super::tiny::write(dir.path(), "a.jsonl", &text);
    let start = std::time::Instant::now();
    let shape = crate::Shape::Messages { column: "messages".into() };
    let n = crate::read(&path, &shape).unwrap().len();
    println!("read {n} rows {} MB in {:?}", text.len() >> 20, start.elapsed());
    let p = crate::prepare(&super::tiny::plan(vec![path]), &t, 7, &|_| ()).unwrap();
    println!("prepared in {:?}\n{}", start.elapsed(), p.report);
}

#[test]
fn scratch_located() {
    let data: Value = serde_json::from_str(&std::fs::read_to_string("/tmp/ds/parity.json").unwrap()).unwrap();
    let mut names = std::collections::BTreeMap::new();
    for (name, source) in data["templates"].as_object().unwrap() {
        let src = source.as_str().unwrap();
        let Some(training) = data["templates"].get(format!("{name}_training")) else { continue };
        // specials
        let mut found = std::collections::BTreeSet::new();
        let mut rest = src;
        while let Some(at) = rest.find('<') {
            rest = &rest[at..];
            if let Some(end) = rest.find('>') { let tok = &rest[..=end]; if tok.len() < 40 && !tok.contains(char::is_whitespace) && !tok.contains('\'') && !tok[1..].contains('<') { found.insert(tok.to_owned()); } }
            rest = &rest[1..];
        }
        found.remove("<think>"); found.remove("</think>");
        let mut json = super::tiny::tokenizer_json(&[]);
        let first = 400;
        for (i, f) in found.iter().enumerate() {
            if super::tiny::SPECIAL.contains(&f.as_str()) { continue }
            json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({"id": first + i, "content": f, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
        }
        let make = |template: &str| { let mut s = super::tiny::spec(Some(template), Some("</s>")); s.tokenizer_json = json.to_string().into_bytes(); s.vocab_size = 5000; crate::ChatTokenizer::new(s) };
        let (plain, marked) = match (make(src), make(training.as_str().unwrap())) { (Ok(a), Ok(b)) => (a, b), (a, b) => { println!("{name}: {:?} {:?}", a.err(), b.err()); continue } };
        let stop: Vec<String> = plain.stop_tokens().collect();
        let (mut same, mut refused, mut text) = (0, Vec::new(), 0);
        for case in data["cases"].as_array().unwrap().iter().filter(|c| c["template"] == **name && c["add_generation_prompt"] == false && c["text"].is_string()) {
            let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(|m| Message::from_fields(m.as_object().unwrap().clone()).unwrap()).collect();
            let sample = crate::Sample::Conversation(crate::Conversation { messages, tools: case["tools"].as_array().map(|t| Value::Array(t.clone())) });
            let a = crate::label_sample(&sample, &plain, tonfall_recipes::plan::TrainOn::Assistant);
            let b = crate::label_sample(&sample, &marked, tonfall_recipes::plan::TrainOn::Assistant);
            let id = format!("{name}/{}", case["conversation"].as_str().unwrap());
            match (a, b) {
                (Ok(a), Ok(b)) if a.input_ids != b.input_ids => { text += 1; }
                (Ok(a), Ok(b)) if a.labels == b.labels => same += 1,
                (Ok(a), Ok(b)) => {
                    let show = |l: &crate::Labelled| { let mut out = String::new(); let mut on = false; let mut ids: Vec<u32> = vec![]; for (&i, &x) in l.input_ids.iter().zip(&l.labels) { let t = x != -100; if t != on { out += &plain.decode_with_special(&ids).unwrap(); ids.clear(); out += if t { "[[" } else { "]]" }; on = t; } ids.push(i); } out += &plain.decode_with_special(&ids).unwrap(); if on { out += "]]" } out };
                    let (x, y) = (show(&a), show(&b));
                    let at = x.char_indices().zip(y.chars()).find(|((_, p), q)| p != q).map_or(0, |((i, _), _)| i);
                    let from = x[..at].char_indices().rev().nth(50).map_or(0, |(i, _)| i);
                    println!("LABELS {id}: ours {:?} | TRL {:?}", x[from..].chars().take(140).collect::<String>(), y[from..].chars().take(140).collect::<String>());
                }
                (Err(e), _) => refused.push(format!("{}: {e}", case["conversation"].as_str().unwrap()).chars().take(150).collect::<String>()),
                (_, Err(e)) => println!("{id}: training template: {e}"),
            }
        }
        println!("== {name}: stops {stop:?} same {same} text differs {text} refused {refused:?}");
        names.insert(name, ());
    }
}

#[test]
fn scratch_flips() {
    use polars::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let mut frame = DataFrame::new(3, vec![Series::new("text".into(), [Some("a"), None, Some("long text here")]).into(), Series::new("id".into(), [1_i64, 2, 3]).into()]).unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let (mut ok, mut err) = (0, std::collections::BTreeMap::<String, usize>::new());
    for at in 0..whole.len() { for x in [0xFF_u8, 1, 0x80] {
        let mut bytes = whole.clone(); bytes[at] ^= x;
        let p = super::tiny::write(dir.path(), "flip.parquet", &bytes);
        match crate::read(&p, &crate::Shape::Text { column: "text".into() }) { Ok(_) => ok += 1, Err(e) => *err.entry(e.to_string().replace(dir.path().to_str().unwrap(), "").chars().take(90).collect()).or_default() += 1 }
    } }
    println!("flips ok {ok} err {err:#?}");
}

#[test]
fn scratch_numbers() {
    for line in ["{\"text\":\"a\",\"id\":123456789012345678901234567890}", "{\"text\":\"a\",\"id\":-0}", "{\"text\":\"a\",\"id\":1E5}", "{\"text\":\"a\\u0000b\",\"id\":-99999999999999999999}", "{\"text\":\"a\",\"id\":1,\"id\":2}", "{\"text\":\"\\ud83c\\udf88\"}", "{\"text\":\"a\",\"id\":1e-400}", "{\"text\":\"a\u{7f}\"}", "{\"text\":\"a\",\"\":{\"\":[]}}", "{\"text\":\"\\ud83c\"}", "{\"text\":\"a\",\"id\":0.1234567890123456789012345678901234567890}"] {
        let dir = tempfile::tempdir().unwrap();
        let p = super::tiny::write(dir.path(), "n.jsonl", line);
        println!("{line} -> {:?}", crate::read(&p, &crate::Shape::Text { column: "text".into() }).map(|r| format!("{:?}", r[0].sample)).map_err(|e| e.to_string()));
    }
}

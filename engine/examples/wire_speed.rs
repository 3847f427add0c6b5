//! Speed of the v1 wire: `cargo run --release --example wire_speed [PAYLOAD_BYTES]`.
use std::hint::black_box;
use std::time::Instant;
use udp_plus::units::UnixMicros;
use udp_plus::wire::csv::*;
fn main() {
    let size: usize = std::env::args().nth(1).map(|s| s.parse().unwrap()).unwrap_or(64);
    let payload: Vec<u8> = (0..size).map(|i| (i * 37) as u8).collect();
    let stamp = Stamp::new(UnixMicros(1764123456123456), Epoch(0xdeadbeef));
    let n = data_row_bytes(size, None);
    let rows = 64;
    let mut buf = vec![0u8; n * rows];
    let mut scratch = Scratch::new();
    let mut out = vec![0u8; size + 64];
    let mut best = [f64::MAX; 5];
    for _ in 0..20 {
        let reps = 5000;
        let k = (reps * rows) as f64;
        let t = Instant::now();
        for r in 0..reps {
            for (i, row) in buf.chunks_exact_mut(n).enumerate() {
                encode_data(row, (r * 64 + i) as u64 * 0x9e3779b97f4a7c15, None, black_box(&payload), &stamp);
            }
            black_box(&mut buf);
        }
        best[0] = best[0].min(t.elapsed().as_nanos() as f64 / k);
        let t = Instant::now();
        let mut sum = 0u64;
        for _ in 0..reps {
            for row in black_box(&buf).chunks_exact(n) {
                match decode(row, &mut scratch) {
                    Ok(Row::Data(d)) => {
                        sum = sum.wrapping_add(d.id.native.unwrap()).wrapping_add(d.sent_at.unwrap().0);
                        sum += d.payload.decode_into(&mut out).unwrap() as u64;
                    }
                    _ => panic!(),
                }
            }
        }
        black_box(sum);
        black_box(&mut out);
        best[1] = best[1].min(t.elapsed().as_nanos() as f64 / k);
        let t = Instant::now();
        for _ in 0..reps {
            for row in black_box(&buf).chunks_exact(n) {
                match decode(row, &mut scratch) {
                    Ok(Row::Data(d)) => {
                        sum = sum.wrapping_add(d.id.native.unwrap()).wrapping_add(d.sent_at.unwrap().0);
                    }
                    _ => panic!(),
                }
            }
        }
        black_box(sum);
        best[2] = best[2].min(t.elapsed().as_nanos() as f64 / k);
        let mut c = vec![0u8; 34 * rows];
        let t = Instant::now();
        for r in 0..reps {
            for (i, row) in c.chunks_exact_mut(34).enumerate() {
                let cf = Confirm::Marked {
                    id: (r * 64 + i) as u64 * 0x9e3779b97f4a7c15,
                    chunk_index: 0,
                    epoch: Epoch(7),
                };
                if confirm_row_bytes(&cf) != row.len() {
                    panic!()
                }
                encode_confirm(row, &cf);
            }
            black_box(&mut c);
        }
        best[3] = best[3].min(t.elapsed().as_nanos() as f64 / k);
        let t = Instant::now();
        for _ in 0..reps {
            for row in black_box(&c).chunks_exact(34) {
                match decode(row, &mut scratch) {
                    Ok(Row::Confirm(d)) => {
                        sum = sum.wrapping_add(d.id.native.unwrap()).wrapping_add(d.epoch.unwrap().0 as u64);
                    }
                    _ => panic!(),
                }
            }
        }
        black_box(sum);
        best[4] = best[4].min(t.elapsed().as_nanos() as f64 / k);
    }
    {
        use base64_simd::*;
        let mut t0 = vec![0u8; n];
        let l = STANDARD.encode(&payload, Out::from_slice(&mut t0)).len();
        let (mut e, mut d) = (f64::MAX, f64::MAX);
        for _ in 0..20 {
            let t = Instant::now();
            for _ in 0..300000 {
                black_box(STANDARD.encode(black_box(&payload), Out::from_slice(&mut t0)));
            }
            e = e.min(t.elapsed().as_nanos() as f64 / 300000.);
            let t = Instant::now();
            for _ in 0..300000 {
                black_box(STANDARD.decode(black_box(&t0[..l]), Out::from_slice(&mut out)).unwrap());
            }
            d = d.min(t.elapsed().as_nanos() as f64 / 300000.);
        }
        println!("raw base64 encode {e:.1} decode {d:.1}");
    }
    println!(
        "payload {size} row {n}: encode {:.1} decode+base64 {:.1} decode only {:.1} confirm encode {:.1} confirm decode {:.1} ns",
        best[0], best[1], best[2], best[3], best[4]
    );
}

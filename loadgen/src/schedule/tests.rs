use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn open_loop(rates: &str, arrivals: &str, warm_up_ms: u64, ms: u64) -> OpenLoop {
    let (rates, arrivals) = (rates.parse().expect("rates"), arrivals.parse().expect("arrivals"));
    let [warm_up, duration] = [warm_up_ms, ms].map(Duration::from_millis);
    OpenLoop::new(&rates, arrivals, warm_up, duration).expect("valid").expect("open")
}

fn constant(start_ns: u64, rate: f64, generators: usize, index: usize) -> Schedule {
    open_loop(&rate.to_string(), "even", 1_000, 1_000).schedule(start_ns, (generators, None), index, 7)
}

/// All times before `end_ns`, of all generators together, in order.
fn all_due(open_loop: &OpenLoop, generators: usize, end_ns: u64) -> Vec<u64> {
    let mut due = Vec::new();
    for index in 0..generators {
        let mut schedule = open_loop.schedule(0, (generators, None), index, 7);
        let mut last = 0;
        while schedule.due_ns() < end_ns {
            assert!(schedule.due_ns() >= last, "the schedule goes back");
            last = schedule.due_ns();
            due.push(last);
            schedule.advance();
        }
    }
    due.sort_unstable();
    due
}

#[test]
fn absolute_and_interleaved() {
    let mut due = Vec::new();
    for index in 0..3 {
        let mut schedule = constant(1_000, 300e6, 3, index);
        for _ in 0..1_000 {
            due.push(schedule.due_ns());
            schedule.advance();
        }
    }
    due.sort_unstable();
    for (n, &due) in due.iter().enumerate() {
        let exact = 1_000.0 + n as f64 / 0.3;
        assert!((due as f64 - exact).abs() <= 1.0, "message {n} is due at {due}, not {exact}");
    }
}

#[test]
fn no_drift() {
    let mut schedule = constant(0, 3.0, 1, 0);
    (0..3_000_000).for_each(|_| schedule.advance());
    assert_eq!(schedule.due_ns(), 1_000_000 * SECOND);
}

#[test]
fn bursts_are_at_once_and_keep_the_rate() {
    let due = all_due(&open_loop("1e5", "burst:50", 0, 1_000), 1, SECOND);
    assert_eq!(due.len(), 100_000);
    for (n, burst) in due.chunks(50).enumerate() {
        assert!(burst.iter().all(|&at| at == n as u64 * 500_000), "burst {n}: {burst:?}");
    }
}

#[test]
fn the_course_of_a_ramp_of_steps_and_of_a_spike() {
    // (rates, messages in each tenth of a window of 1 s behind a warm-up of 1 s)
    let ramp: Vec<f64> = (0..10).map(|tenth| 100.0 + 50.0 + 100.0 * f64::from(tenth)).collect();
    let steps = [1e3, 1e3, 1e3, 1e3, 1e3, 3e3, 3e3, 3e3, 3e3, 3e3].map(|rate| rate / 10.0).to_vec();
    let spike = [1e3, 1e3, 1e3, 1e3, 9e3, 9e3, 1e3, 1e3, 1e3, 1e3].map(|rate| rate / 10.0).to_vec();
    for (rates, tenths) in [("ramp:1000..11000", ramp), ("step:1e3,3e3", steps), ("spike:1e3..9e3", spike)] {
        for generators in [1, 3] {
            let due = all_due(&open_loop(rates, "even", 1_000, 1_000), generators, 2 * SECOND);
            let warm_up = due.iter().filter(|&&at| at < SECOND).count();
            assert_eq!(warm_up, 1_000, "{rates}: the first rate");
            for (tenth, expected) in (0..).zip(&tenths) {
                let (from, to) = (SECOND + tenth * SECOND / 10, SECOND + (tenth + 1) * SECOND / 10);
                let count = due.iter().filter(|&&at| (from..to).contains(&at)).count();
                assert!((count as f64 - expected).abs() <= 1.0, "{rates}, tenth {tenth}: {count}");
            }
        }
    }
}

/// Mean, variance and independence of counts: what makes a process Poisson, be its rate constant or not.
#[test]
fn random_arrivals_are_poisson() {
    for (rates, generators) in [("1e6", 1), ("1e6", 4), ("ramp:5e5..1.5e6", 2)] {
        let open = open_loop(rates, "poisson", 0, 1_000);
        let due = all_due(&open, generators, SECOND);
        let mean = 1e6;
        assert!((due.len() as f64 - mean).abs() < 4.0 * mean.sqrt(), "{rates}: {}", due.len());
        let Course::Rates(profile) = &open.course else { panic!("rates") };
        // Slots of 10 expected messages each, whatever the rate is meanwhile.
        let (mut counts, mut slot) = (vec![0.0_f64; 100_000], 0_usize);
        for &at in &due {
            let expected = profile.count_by(at as f64) / 10.0;
            slot = slot.max(expected as usize).min(counts.len() - 1);
            counts[slot] += 1.0;
        }
        let variance = counts.iter().map(|count| (count - 10.0).powi(2)).sum::<f64>() / counts.len() as f64;
        assert!((variance - 10.0).abs() < 0.3, "{rates}, {generators}: variance {variance}");
        let neighbours: f64 = counts.windows(2).map(|two| (two[0] - 10.0) * (two[1] - 10.0)).sum();
        let correlation = neighbours / counts.len() as f64 / variance;
        assert!(correlation.abs() < 0.02, "{rates}: neighbours correlate by {correlation}");
    }
    let due = |seed| open_loop("1e6", "poisson", 0, 1_000).schedule(0, (1, None), 0, seed).due_ns();
    assert!(due(1) == due(1) && due(1) != due(2), "a run has its own times, and always these");
}

#[test]
fn a_trace_is_played_as_recorded() {
    let trace = Trace::parse("# seconds\n0\n0.25,64\n\n0.25 1500\n0.9\n7\n").expect("valid");
    assert_eq!(trace.times_ns(), [0, 250_000_000, 250_000_000, 900_000_000, 7 * SECOND]);
    let open = OpenLoop::of_trace(trace, Duration::from_secs(14), Duration::from_secs(1));
    assert_eq!(open.mean_rate, 4.0, "of what is within the window");
    for generators in [1, 2] {
        let due = all_due(&open, generators, u64::MAX);
        // 5 in 7 s, so 10 in the warm-up.
        assert_eq!(due.len(), 15);
        let expected = [0, 250_000_000, 250_000_000, 900_000_000, 7 * SECOND].map(|at| at + 14 * SECOND);
        assert_eq!(due[10..], expected);
        assert!(due[..10].is_sorted() && due[9] < 14 * SECOND);
    }
}

#[test]
fn what_is_no_trace() {
    for (text, why) in
        [("", "no time"), ("soon", "no time in seconds"), ("1\n0.5", "sort"), ("-1", "between 0")]
    {
        assert!(Trace::parse(text).expect_err(text).contains(why), "{text}");
    }
    assert!(Trace::read("/nowhere".as_ref()).expect_err("no file").contains("/nowhere"));
    let (trace, second) = (Rates::Trace("/nowhere".into()), Duration::from_secs(1));
    let error = OpenLoop::new(&trace, Arrivals::Poisson, second, second).expect_err("both");
    assert!(error.contains("has its own"), "{error}");
    let error = OpenLoop::new(&Rates::Max, Arrivals::Poisson, second, second).expect_err("no rate");
    assert!(error.contains("needs a --rate"), "{error}");
}

fn rates() -> impl Strategy<Value = Rates> {
    let rate = 1.0..20_000.0;
    prop_oneof![
        rate.clone().prop_map(Rates::Constant),
        (rate.clone(), rate.clone()).prop_map(|(from, to)| Rates::Ramp(from, to)),
        (rate.clone(), rate.clone()).prop_map(|(base, peak)| Rates::Spike(base, peak)),
        proptest::collection::vec(rate, 1..6).prop_map(Rates::Steps),
    ]
}

fn arrivals() -> impl Strategy<Value = Arrivals> {
    prop_oneof![Just(Arrivals::Even), Just(Arrivals::Poisson), (1..500_u32).prop_map(Arrivals::Burst)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Times never go back, the count of what is due before a time is what counting gives, and the whole of it is what the
    /// rate amounts to.
    #[test]
    fn any_schedule(
        rates in rates(), arrivals in arrivals(), warm_up_ms in 0..500_u64, ms in 1..1_000_u64,
        generators in 1..4_usize, cut in 0.0..1.2_f64,
    ) {
        let duration = Duration::from_millis(ms);
        let warm_up = Duration::from_millis(warm_up_ms);
        let open = OpenLoop::new(&rates, arrivals, warm_up, duration).expect("valid").expect("open");
        let whole = (warm_up + duration).as_nanos() as f64;
        let end_ns = (whole * cut) as u64;
        let due = all_due(&open, generators, end_ns);
        let counted: u64 = (0..generators)
            .map(|index| {
                let mut schedule = open.schedule(0, (generators, None), index, 7);
                // Wherever it stands meanwhile.
                (0..index * 10).for_each(|_| schedule.advance());
                schedule.due_before(end_ns)
            })
            .sum();
        prop_assert_eq!(counted, due.len() as u64);
        let Course::Rates(profile) = &open.course else { panic!("rates") };
        let expected = profile.count_by(end_ns as f64);
        let slack = match arrivals {
            Arrivals::Even => 1.0,
            Arrivals::Burst(count) => f64::from(count),
            Arrivals::Poisson => 6.0 * expected.sqrt() + 6.0,
        };
        prop_assert!((due.len() as f64 - expected).abs() <= slack, "{} of {expected}", due.len());
        prop_assert!(open.peak_rate >= open.mean_rate * 0.999);
    }

    /// As many generators as there are: together they offer at the same times.
    #[test]
    fn generators_take_turns(rates in rates(), ms in 1..500_u64, generators in 2..5_usize) {
        let duration = Duration::from_millis(ms);
        let open = OpenLoop::new(&rates, Arrivals::Even, Duration::ZERO, duration).expect("valid").expect("open");
        let end_ns = ms * 1_000_000;
        prop_assert_eq!(all_due(&open, generators, end_ns), all_due(&open, 1, end_ns));
    }

    #[test]
    fn what_is_printed_parses(rates in rates(), arrivals in arrivals()) {
        prop_assert_eq!(rates.to_string().parse(), Ok(rates));
        prop_assert_eq!(arrivals.to_string().parse(), Ok(arrivals));
    }
}

/// The end of a long run does not go through all of it again.
#[test]
fn random_arrivals_are_counted_from_a_place_nearby() {
    let open = open_loop("1e6", "poisson", 1_000, 4_000);
    let mut schedule = open.schedule(0, (1, None), 0, 7);
    let mut due = Vec::new();
    while schedule.due_ns() < 4 * SECOND {
        due.push(schedule.due_ns());
        schedule.advance();
    }
    // Before where it stands, and where it has not been yet.
    for end_ns in [0, 1, SECOND, 2 * SECOND + 7, 4 * SECOND] {
        let count = due.partition_point(|&at| at < end_ns) as u64;
        assert_eq!(schedule.due_before(end_ns), count);
        assert!(count - schedule.back_to(end_ns).at.offered.min(count) <= MARK_EVERY, "{end_ns}");
    }
    let later = schedule.due_before(5 * SECOND);
    assert_eq!(schedule.back_to(5 * SECOND).at.offered, due.len() as u64);
    while schedule.due_ns() < 5 * SECOND {
        schedule.advance();
    }
    assert_eq!((schedule.due_before(5 * SECOND), schedule.at.offered), (later, later));
}

/// Heavy and light generators: each has its share of the rate, and all together have the rate.
#[test]
fn unequal_generators_share_the_rate() {
    let shares = [0.5, 0.3, 0.15, 0.05];
    for (arrivals, slack) in [("even", 1.0), ("burst:10", 10.0), ("poisson", 600.0)] {
        let open = open_loop("1e5", arrivals, 1_000, 1_000);
        for (index, share) in shares.into_iter().enumerate() {
            let schedule = open.schedule(5_000, (4, Some(&shares)), index, 7);
            for seconds in [1, 2] {
                let due = schedule.due_before(5_000 + seconds * 1_000_000_000) as f64;
                let expected = share * 1e5 * seconds as f64;
                assert!((due - expected).abs() <= slack, "{arrivals} {index}: {due}, not {expected}");
            }
        }
    }
    // One by one they never go backwards, and the leap to the end counts what going there counts.
    let mut schedule = open_loop("1e5", "even", 1_000, 1_000).schedule(0, (4, Some(&shares)), 2, 7);
    let (mut count, mut last) = (0, 0);
    while schedule.due_ns() < 1_000_000_000 {
        assert!(schedule.due_ns() >= last);
        last = schedule.due_ns();
        count += 1;
        schedule.advance();
    }
    assert_eq!(schedule.due_before(1_000_000_000), count);
}

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    spotreel_fuzz::targets::images(input);
});

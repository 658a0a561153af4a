//! Which addresses a webhook may be sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is one of the public internet's, so that a request to it reaches nothing of ours.
///
/// Of IPv6 only what is given out (2000::/3) counts, without the parts that carry IPv4 addresses or are kept for tunnels and
/// documents: NAT64, 6to4 and Teredo would lead back to private addresses.
pub fn is_public(address: IpAddr) -> bool {
    match unmapped(address) {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Whether an address may be that of an instance's metadata, which holds credentials. No configuration opens it.
pub fn is_metadata(address: IpAddr) -> bool {
    match unmapped(address) {
        // AWS, Google, Azure, containers of AWS; then Alibaba and Oracle.
        IpAddr::V4(address) => {
            address.is_link_local()
                || matches!(address.octets(), [100, 100, 100, 200] | [192, 0, 0, 192])
        }
        // Link-local, and AWS' fd00:ec2::/32.
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            first & 0xffc0 == 0xfe80 || (first, second) == (0xfd00, 0x0ec2)
        }
    }
}

/// `::ffff:127.0.0.1` reaches 127.0.0.1.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224.., _, _)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let given_out = first & 0xe000 == 0x2000;
    given_out
        // 2001::/23, 2001:db8::/32, 2002::/16, 3fff::/20.
        && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
        && first != 0x2002
        && !(first == 0x3fff && second < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: [&str; 46] = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:10::1",
        "2001:1ff::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
    ];
    const ALLOWED: [&str; 15] = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.1",
        "192.167.255.255",
        "198.20.0.1",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2001:4860:4860::8888",
        "2606:4700:4700::1111",
    ];

    fn address(text: &str) -> IpAddr {
        text.parse().expect("the list has addresses only")
    }

    #[test]
    fn only_public_addresses_are_public() {
        let wrong: Vec<_> = REFUSED
            .iter()
            .filter(|text| is_public(address(text)))
            .collect();
        assert!(wrong.is_empty(), "not public: {wrong:?}");
        let wrong: Vec<_> = ALLOWED
            .iter()
            .filter(|text| !is_public(address(text)))
            .collect();
        assert!(wrong.is_empty(), "public: {wrong:?}");
        // Multicast, and the edges of the documentation's part.
        assert!(!is_public(address("ff02::1")));
        assert!(is_public(address("2001:200::1")) && is_public(address("3fff:1000::1")));
    }

    #[test]
    fn metadata_is_known_in_every_form() {
        for text in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fe80::1",
        ] {
            assert!(is_metadata(address(text)), "{text}");
        }
        for text in ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "8.8.8.8"] {
            assert!(!is_metadata(address(text)), "{text}");
        }
    }
}

//! Checks by a DNS query from outside the guest, over TCP.

use std::{collections::BTreeSet, net::Ipv4Addr};

use faultline_domain::{NodeName, TenantId, lab::DnsTest};
use faultline_provider::Provider;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE, rdata::RData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Finding, Unknown, port};

const ID: u16 = 0x4661;

pub(super) async fn evaluate(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    test: &DnsTest,
) -> Result<Finding, Unknown> {
    let question = question(&test.name)?;
    let mut stream = match port(provider, env, node, test.port).await? {
        Ok(stream) => stream,
        Err(why) => {
            return Ok(Finding::new(false, format!("{node}:{}: {why}", test.port)));
        }
    };
    let exchange = async {
        stream.write_all(&question).await?;
        stream.flush().await?;
        let len = stream.read_u16().await?;
        let mut answer = vec![0; len.into()];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    Ok(match exchange.await {
        Ok(answer) => judge(&answer, test),
        Err(e) => Finding::new(false, format!("{node}:{}: {e}", test.port)),
    })
}

/// Returns the query, prefixed with its length.
fn question(name: &str) -> Result<Vec<u8>, Unknown> {
    let bad = |_| Unknown(format!("{name:?} is not a domain name"));
    let mut packet = Packet::new_query(ID);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(
        Name::new(name).map_err(bad)?,
        TYPE::A.into(),
        CLASS::IN.into(),
        false,
    ));
    let body = packet.build_bytes_vec().map_err(bad)?;
    let mut message = u16::try_from(body.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
        .to_vec();
    message.extend_from_slice(&body);
    Ok(message)
}

fn judge(answer: &[u8], test: &DnsTest) -> Finding {
    let Ok(packet) = Packet::parse(answer) else {
        return Finding::new(false, "the answer is not a DNS message");
    };
    if packet.id() != ID {
        return Finding::new(false, "the answer is to another question");
    }
    if packet.rcode() != RCODE::NoError {
        return Finding::new(false, format!("{}: {:?}", test.name, packet.rcode()));
    }
    let came: BTreeSet<Ipv4Addr> = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::A(a) => Some(Ipv4Addr::from(a.address)),
            _ => None,
        })
        .collect();
    let list: Vec<String> = came.iter().map(ToString::to_string).collect();
    let seen = if list.is_empty() {
        format!("{}: no address", test.name)
    } else {
        format!("{} is {}", test.name, list.join(", "))
    };
    let wanted: BTreeSet<Ipv4Addr> = test.answers.iter().copied().collect();
    let holds = if wanted.is_empty() {
        !came.is_empty()
    } else {
        came == wanted
    };
    Finding::new(holds, seen)
}

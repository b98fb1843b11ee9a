//! `faultline completions`: prints a shell's completion script.

use clap::{Args, Command, CommandFactory};
use clap_complete::{Shell, generate};

/// The options of the command.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script that a shell reads.
pub fn run<Program: CommandFactory>(args: &CompletionsArgs) -> anyhow::Result<()> {
    print!("{}", script::<Program>(args.shell)?);
    Ok(())
}

fn script<Program: CommandFactory>(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    let mut program = for_people(&Program::command());
    generate(shell, &mut program, "faultline", &mut script);
    Ok(String::from_utf8(script)?)
}

/// Returns the command without its hidden subcommands, which `generate` would complete too.
fn for_people(program: &Command) -> Command {
    let commands = program.get_subcommands();
    Command::new("faultline")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(program.get_arguments().cloned())
        .subcommands(commands.filter(|command| !command.is_hide_set()).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cli;

    #[test]
    fn every_shell_learns_the_commands_for_people_and_no_others() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script::<Cli>(shell).unwrap();
            for (word, expected) in [("doctor", true), ("completions", true), ("launch", false)] {
                assert_eq!(script.contains(word), expected, "{shell}: {word}");
            }
        }
    }

    #[test]
    fn bash_completes_a_command() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("faultline");
        std::fs::write(&file, script::<Cli>(Shell::Bash).unwrap()).unwrap();
        let complete = "source \"$0\"; COMP_WORDS=(faultline do); COMP_CWORD=1; _faultline faultline do faultline; \
                        echo \"${COMPREPLY[@]}\"";
        let done = std::process::Command::new("bash")
            .args(["-c", complete])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(said.trim(), "down doctor", "{done:?}");
    }
}

//! `tonfall man`: one manual page with all commands.
//!
//! Responsible for: writing the help of the command line as roff.

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::Cli;
use crate::diagnostics::Result;
use crate::output;

pub(crate) fn run() -> Result<()> {
    let mut program = Cli::command();
    program.build();
    let mut page = Vec::new();
    Man::new(program.clone()).render(&mut page)?;
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        let man = Man::new(command.clone());
        page.extend_from_slice(
            format!(".SH {}\n", command.get_bin_name().unwrap_or_default().to_uppercase()).as_bytes(),
        );
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    Ok(output::piece(&String::from_utf8_lossy(&page))?)
}

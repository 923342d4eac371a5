package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"shoal/agent"
	"shoal/backup"
	"shoal/internal/statefile"
)

func storeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Back the cluster's store up, and restore it",
		Long: `Back the cluster's store up, and restore it. A backup holds the whole store and
the key of the cluster's CA, encrypted with a passphrase (age, scrypt): whoever
has both can be a host of the cluster.`,
	}
	cmd.AddCommand(backupCommand(o), restoreCommand(o))
	return cmd
}

func backupCommand(o *options) *cobra.Command {
	var secret passphrase
	cmd := &cobra.Command{
		Use:     "backup FILE",
		Short:   "Write a backup of the store, on a host that serves it",
		Example: "  sudo shoal store backup /root/shoal.backup",
		Args:    exactlyOne("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			words, err := secret.read(true)
			if err != nil {
				return err
			}
			size, err := statefile.WriteBy(args[0], func(f io.Writer) error {
				w, err := backup.Seal(f, words)
				if err != nil {
					return err
				}
				if err := o.client().Backup(cmd.Context(), w); err != nil {
					return err
				}
				return w.Close()
			})
			if err != nil {
				return fmt.Errorf("back up to %s: %w", args[0], err)
			}
			return o.show(cmd.OutOrStdout(), map[string]any{"file": args[0], "bytes": size}, func(w io.Writer) {
				fmt.Fprintf(w, "%s has %d bytes; it is of no use without the passphrase\n", args[0], size)
			})
		},
	}
	secret.declare(cmd)
	return cmd
}

func restoreCommand(o *options) *cobra.Command {
	var c settings
	var secret passphrase
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make this host serve the store of a backup",
		Long: `Make this host serve the store of a backup. Its state folder must hold no store:
move it away if it does. Started after that, the agent has the cluster's
services, VIPs and hosts as they were, and is the only one that serves them. A
host of the same name and address as the backup's is that host again, and the
others find it by themselves; at another address they are told with --join, and
where the host has another name, the old one is removed with "shoal node rm".`,
		Example: "  sudo systemctl stop shoal\n  sudo shoal store restore /root/shoal.backup\n  sudo systemctl start shoal",
		Args:    exactlyOne("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := c.resolve(cmd.Flags(), o); err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			words, err := secret.read(false)
			if err != nil {
				return err
			}
			plain, err := backup.Unseal(f, words)
			if err != nil {
				return err
			}
			m, err := agent.Restore(c.Config, plain)
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), m, func(w io.Writer) {
				fmt.Fprintf(w, "the store is as host %s had it on %s; start the agent now\n", m.Node, m.Created.Local().Format("2006-01-02 15:04:05"))
			})
		},
	}
	c.declare(cmd.Flags())
	cmd.Flags().VisitAll(hide("node", "state-dir", "config"))
	secret.declare(cmd)
	return cmd
}

// passphrase is where a passphrase comes from.
type passphrase struct{ file string }

func (p *passphrase) declare(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "passphrase-file", "", "read the passphrase from the first line of this file (default: from the terminal)")
}

// read returns it. twice has a person type a new one twice.
func (p *passphrase) read(twice bool) (string, error) {
	if p.file != "" {
		b, err := os.ReadFile(p.file)
		if err != nil {
			return "", fmt.Errorf("read the passphrase: %w", err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		return p.check(strings.TrimSuffix(line, "\r"))
	}
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return "", &usageError{errors.New("there is no terminal to read the passphrase from: use --passphrase-file")}
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(stderr, prompt)
		b, err := term.ReadPassword(in)
		fmt.Fprintln(stderr)
		return string(b), err
	}
	words, err := ask("Passphrase: ")
	if err == nil && twice {
		var again string
		if again, err = ask("Once more: "); err == nil && again != words {
			err = errors.New("the two passphrases differ")
		}
	}
	if err != nil {
		return "", err
	}
	return p.check(words)
}

func (p *passphrase) check(words string) (string, error) {
	if words == "" {
		return "", errors.New("the passphrase is empty")
	}
	return words, nil
}

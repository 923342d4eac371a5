package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shoal/internal/statefile"
)

// How long a report may take, and one part of it.
const (
	reportTime = 2 * time.Minute
	partTime   = 15 * time.Second
)

// bugReport is what shoal bugreport made.
type bugReport struct {
	File  string       `json:"file"`
	Bytes int64        `json:"bytes"`
	Parts []reportPart `json:"parts"`
}

// Identity is the file.
func (r *bugReport) Identity() string { return r.File }

// reportPart is a file of the report, or one that it lacks.
type reportPart struct {
	Name     string `json:"name"`
	Bytes    int    `json:"bytes"`
	Redacted string `json:"redacted,omitempty"` // what was taken out of it
	Missing  string `json:"missing,omitempty"`  // why it is not there

	text string
}

// reportSource is where a part comes from.
type reportSource struct {
	name string
	text func(context.Context, *redactor) (string, error)
}

func bugreportCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bugreport [FILE]",
		Short: "Gather in one file what a report of a bug needs",
		Long: `Gather in one file (a tar.gz, for root only) what a report of a bug needs:
versions, status, problems, hosts, services, tasks, events, metrics, the agent's
settings, what the kernel has of the services (as explain -v shows it), the
kernel's tables themselves, and the agent's last log. Where the agent does not
answer, what is left is gathered, and of the settings those of the file.

The tables are packet filters, sets, routes, links and parameters, others' too;
nft, iptables, ipset and ip read them, as far as these are installed.

Passwords, tokens, keys and values of unknown settings are taken out; labels and
variables of containers are not gathered. It prints what the file holds, what it
lacks, and what was taken out. Look at it before you send it: it has the names
and addresses of hosts, services and containers.`,
		Example: "  sudo shoal bugreport\n  sudo shoal bugreport /tmp/report.tar.gz\n  sudo shoal bugreport --config /etc/shoal/other.yaml",
		Args:    atMostOne("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now().UTC()
			file := reportName(now)
			if len(args) == 1 {
				file = args[0]
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), reportTime)
			defer cancel()
			r := &bugReport{File: file, Parts: gather(ctx, o.reportSources(ctx))}
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			var err error
			if r.Bytes, err = statefile.WriteBy(file, func(w io.Writer) error { return writeReport(w, file, now, r.Parts) }); err != nil {
				return fmt.Errorf("write the report %s: %w", file, err)
			}
			return o.show(cmd.OutOrStdout(), r, func(w io.Writer) { r.print(w) })
		},
	}
	cmd.Flags().StringVar(&o.config, "config", "", "`FILE` of settings, of an agent that does not answer (default: "+defaultConfigFile+")")
	return cmd
}

var notOfNames = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// reportName is the file's where none is given, with host and time.
func reportName(now time.Time) string {
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	return fmt.Sprintf("shoal-%s-%s.tar.gz", notOfNames.ReplaceAllString(host, "-"), now.Format("20060102T150405Z"))
}

// gather reads all sources, each for a limited time, and takes secrets out.
func gather(ctx context.Context, sources []reportSource) (parts []reportPart) {
	for _, s := range sources {
		r := &redactor{}
		bounded, cancel := context.WithTimeout(ctx, partTime)
		text, err := s.text(bounded, r)
		cancel()
		p := reportPart{Name: s.name}
		if err != nil {
			p.Missing = (&redactor{}).text(err.Error())
		} else {
			p.text = r.text(text)
			p.Bytes, p.Redacted = len(p.text), r.summary()
		}
		parts = append(parts, p)
	}
	return parts
}

// writeReport writes the parts, and a list of them, as files in a folder of the
// report's name.
func writeReport(w io.Writer, file string, now time.Time, parts []reportPart) error {
	zip := gzip.NewWriter(w)
	to := tar.NewWriter(zip)
	folder := strings.TrimSuffix(filepath.Base(file), ".tar.gz")
	add := func(name, text string) error {
		err := to.WriteHeader(&tar.Header{Name: folder + "/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: now})
		if err == nil {
			_, err = io.WriteString(to, text)
		}
		return err
	}
	list := &grid{}
	printParts(list, parts)
	if err := add("README.txt", list.text()); err != nil {
		return err
	}
	for _, p := range parts {
		if p.Missing != "" {
			continue
		}
		if err := add(p.Name, p.text); err != nil {
			return err
		}
	}
	if err := to.Close(); err != nil {
		return err
	}
	return zip.Close()
}

func printParts(w io.Writer, parts []reportPart) {
	row(w, painted{"PART", bold}, painted{"OCTETS", bold}, painted{"TAKEN OUT, OR WHY IT IS MISSING", bold})
	for _, p := range parts {
		if p.Missing != "" {
			row(w, p.Name, painted{"missing", wary}, p.Missing)
		} else {
			row(w, p.Name, p.Bytes, p.Redacted)
		}
	}
}

func (r *bugReport) print(w io.Writer) {
	printParts(w, r.Parts)
	fmt.Fprintf(w, "\n%s has %d octets. Look at it before you send it: it has the names and addresses of hosts, services and containers.\n", r.File, r.Bytes)
}

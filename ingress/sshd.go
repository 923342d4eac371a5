package ingress

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const sshPort = 22

// What names the ports that sshd listens on: its own configuration, and the sockets of
// systemd that start it.
const sshdConfig = "/etc/ssh/sshd_config"

var sshSockets = []string{
	"/etc/systemd/system/ssh*.socket", "/etc/systemd/system/ssh*.socket.d/*.conf",
	"/run/systemd/system/ssh*.socket", "/run/systemd/system/ssh*.socket.d/*.conf",
	"/run/systemd/generator/ssh*.socket", "/run/systemd/generator/ssh*.socket.d/*.conf",
	"/usr/lib/systemd/system/ssh*.socket", "/usr/lib/systemd/system/ssh*.socket.d/*.conf",
}

// maxIncludes bounds how deep files of sshd's configuration name others.
const maxIncludes = 8

// sshPorts are the ports that sshd is configured to listen on, on the host whose files
// are at root. What cannot be read names none.
func sshPorts(root string) map[uint16]bool {
	ports := map[uint16]bool{}
	readSSHD(root, sshdConfig, ports, 0)
	for _, pattern := range sshSockets {
		files, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, file := range files {
			eachLine(file, func(line string) {
				key, value, _ := strings.Cut(line, "=")
				if strings.TrimSpace(key) == "ListenStream" {
					addPort(ports, strings.TrimSpace(value))
				}
			})
		}
	}
	return ports
}

// readSSHD reads a file in the form of sshd_config(5).
func readSSHD(root, file string, ports map[uint16]bool, depth int) {
	if depth > maxIncludes {
		return
	}
	eachLine(filepath.Join(root, file), func(line string) {
		words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '=' || r == '"' })
		if len(words) < 2 {
			return
		}
		switch strings.ToLower(words[0]) {
		case "port", "listenaddress":
			addPort(ports, words[1])
		case "include":
			for _, pattern := range words[1:] {
				if !filepath.IsAbs(pattern) {
					pattern = filepath.Join(filepath.Dir(sshdConfig), pattern)
				}
				files, _ := filepath.Glob(filepath.Join(root, pattern))
				for _, f := range files {
					if rel, err := filepath.Rel(root, f); err == nil {
						readSSHD(root, "/"+rel, ports, depth+1)
					}
				}
			}
		}
	})
}

// addPort adds the port of "22", "ADDR:22" or "[ADDR]:22"; an address alone has none.
func addPort(ports map[uint16]bool, s string) {
	if _, port, err := net.SplitHostPort(s); err == nil {
		s = port
	}
	if n, err := strconv.ParseUint(s, 10, 16); err == nil && n > 0 {
		ports[uint16(n)] = true
	}
}

// eachLine calls f for the lines of a file that are no comment.
func eachLine(file string, f func(line string)) {
	r, err := os.Open(file)
	if err != nil {
		return
	}
	defer r.Close()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' {
			f(line)
		}
	}
}

package vm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Suite is a suite of Debian, such as trixie.
type Suite string

// packages are what a machine has besides the essential ones. They are stock: what a Debian server with Docker has, and the
// firewalls that it may have. A lab in the machine makes its image of busybox.
var packages = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "init", "login", "util-linux", "kmod", "procps", "psmisc", "ca-certificates",
	"iproute2", "iptables", "nftables", "ipset", "conntrack", "iputils-ping", "curl", "tcpdump", "busybox",
	"docker.io", "apparmor", "openssh-server", "firewalld", "ufw", "initramfs-tools", "linux-image-cloud-amd64",
}

// debootstrapLimit is how long the making of a root file system may take: the packages are about 350 MB.
const debootstrapLimit = 30 * time.Minute

// diskSize is of a machine's disk, which is sparse.
const diskSize = "6G"

// install is run in a new root file system, which has the essential packages only. Apt knows the order in which packages have
// to be configured; debootstrap does not, and gives up on some of these.
const install = `set -e
mount -t proc proc /proc
mount -t sysfs sysfs /sys
export DEBIAN_FRONTEND=noninteractive
# The initial file system holds what finds the disk, and no more: to unpack the usual one takes the emulator half a minute.
mkdir -p /etc/initramfs-tools/conf.d
echo MODULES=list >/etc/initramfs-tools/conf.d/lab
# A mirror may be a snapshot of some date; debootstrap asks no more of it either.
apt-get -o Acquire::Check-Valid-Until=false update
# Up to Debian 11 docker.io has the command line itself.
[ -z "$(apt-cache pkgnames docker-cli)" ] || set -- "$@" docker-cli
apt-get install -y --no-install-recommends -o APT::Keep-Downloaded-Packages=false "$@"
`

// finish is run in the root file system when all packages are installed.
const finish = `set -e
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# Debian starts firewalld where it is installed, and Debian's ufw waits to be enabled. The tests start both.
systemctl disable firewalld.service
systemctl enable systemd-networkd.service ssh.service docker.service
systemctl mask apt-daily.timer apt-daily-upgrade.timer
cat >/etc/systemd/network/10-ssh.network <<END
[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
LinkLocalAddressing=no
[Link]
RequiredForOnline=no
END
# A machine is told by its command line which files it has: PATH:BASE64. Systemd's credentials are not in Debian 11.
cat >/usr/local/sbin/lab-files <<'END'
#!/bin/sh
for word in $(cat /proc/cmdline); do
	case $word in lab.file=*)
		file=${word#lab.file=}
		mkdir -p "$(dirname "${file%%:*}")"
		echo "${file#*:}" | base64 -d >"${file%%:*}"
	esac
done
END
chmod 755 /usr/local/sbin/lab-files
cat >/etc/systemd/system/lab-files.service <<END
[Unit]
DefaultDependencies=no
After=local-fs.target
Before=systemd-networkd.service ssh.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/lab-files
[Install]
WantedBy=systemd-networkd.service ssh.service
END
systemctl enable lab-files.service
echo "/dev/vda / ext4 defaults 0 1" >/etc/fstab
rm -f /etc/resolv.conf /etc/hostname
echo "nameserver 192.168.77.1" >/etc/resolv.conf
printf '127.0.0.1\tlocalhost\n' >/etc/hosts
printf 'virtio_pci\nvirtio_blk\next4\n' >>/etc/initramfs-tools/modules
update-initramfs -u -k all
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
`

// Image is what machines of a suite start from.
type Image struct {
	Suite   Suite
	Dir     string // its folder in the cache
	HostKey []byte // by which its ssh server is known, a line of an authorized_keys file
}

func (i *Image) kernel() string { return filepath.Join(i.Dir, "vmlinuz") }
func (i *Image) initrd() string { return filepath.Join(i.Dir, "initrd") }
func (i *Image) disk() string   { return filepath.Join(i.Dir, "disk.img") }

// key tells images apart that are made in another way.
func (s Suite) key(mirror string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{string(s), mirror, diskSize, install, finish}, packages...), "\n")))
	return string(s) + "-" + hex.EncodeToString(sum[:])[:12]
}

// Image returns the suite's image from the folder cache, and makes it there first where it is not. Say is told what goes
// on. Two who want the same one at the same time make it once.
func (s Suite) Image(ctx context.Context, cache, mirror string, say func(format string, args ...any)) (*Image, error) {
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache of images: %w", err)
	}
	i := &Image{Suite: s, Dir: filepath.Join(cache, s.key(mirror))}
	unlock, err := lock(ctx, i.Dir+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(i.Dir); errors.Is(err, fs.ErrNotExist) {
		began := time.Now()
		say("%s: making its image, which is kept for other runs in %s", s, i.Dir)
		if err := s.make(ctx, i.Dir, mirror, say); err != nil {
			return nil, fmt.Errorf("make the image of %s: %w", s, err)
		}
		say("%s: its image took %v", s, time.Since(began).Round(time.Second))
	} else if err != nil {
		return nil, err
	}
	if i.HostKey, err = os.ReadFile(filepath.Join(i.Dir, "host.pub")); err != nil {
		return nil, fmt.Errorf("an image that is not whole, remove it: %w", err)
	}
	return i, nil
}

// lock waits until nobody else has the file locked.
func lock(ctx context.Context, file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another who makes this image (%s): %w", file, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// make makes an image in a folder beside dir, which gets that name at the end: there are no halves.
func (s Suite) make(ctx context.Context, dir, mirror string, say func(format string, args ...any)) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("debootstrap needs root")
	}
	ctx, cancel := context.WithTimeout(ctx, debootstrapLimit)
	defer cancel()
	temporary := dir + ".new"
	root := filepath.Join(temporary, "root")
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temporary)) }()
	b := builder{ctx: ctx, log: filepath.Join(dir + ".log"), say: func(line string) { say("%s: %s", s, line) }}
	if err := b.debootstrap(s, root, mirror); err != nil {
		return err
	}
	if err := b.complete(root); err != nil {
		return err
	}
	return errors.Join(
		copyOne(filepath.Join(root, "boot/vmlinuz-*"), filepath.Join(temporary, "vmlinuz")),
		copyOne(filepath.Join(root, "boot/initrd.img-*"), filepath.Join(temporary, "initrd")),
		copyOne(filepath.Join(root, "etc/ssh/ssh_host_ed25519_key.pub"), filepath.Join(temporary, "host.pub")),
		b.run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, filepath.Join(temporary, "disk.img"), diskSize),
		os.RemoveAll(root),
		os.Rename(temporary, dir))
}

type builder struct {
	ctx context.Context
	log string
	say func(line string)
}

// scripts are where debootstrap has what it knows of each suite.
const scripts = "/usr/share/debootstrap/scripts"

// debootstrap makes a root file system of the essential packages.
func (b builder) debootstrap(s Suite, root, mirror string) error {
	args := []string{"debootstrap", "--variant=minbase", "--include=ca-certificates", string(s), root, mirror}
	if _, err := os.Stat(filepath.Join(scripts, string(s))); errors.Is(err, fs.ErrNotExist) {
		args = append(args, filepath.Join(scripts, "sid")) // a suite newer than this debootstrap
	}
	return b.run(args...)
}

// complete installs the packages in the root file system, and sets it up.
func (b builder) complete(root string) error {
	// Nothing is to be started in there.
	policy := filepath.Join(root, "usr/sbin/policy-rc.d")
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return err
	}
	resolvers, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "etc/resolv.conf"), resolvers, 0o644); err != nil {
		return err
	}
	if err := b.run(append([]string{"chroot", root, "/bin/sh", "-c", install, "sh"}, packages...)...); err != nil {
		return err
	}
	if err := b.run("chroot", root, "/bin/sh", "-c", finish); err != nil {
		return err
	}
	return os.Remove(policy)
}

// proxied is this process's environment, with the proxy that apt uses, if it has one.
func proxied() []string {
	env := append(os.Environ(), "LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := exec.Command("apt-config", "dump", "--format", "%v", "Acquire::http::Proxy").Output()
	if proxy := strings.TrimSpace(string(out)); err == nil && proxy != "" && proxy != "DIRECT" {
		env = append(env, "http_proxy="+proxy)
	}
	return env
}

// run runs a command, its output going to the log. Of what it prints a line is said every ten seconds.
func (b builder) run(args ...string) error {
	log, err := os.OpenFile(b.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(b.ctx, args[0], args[1:]...)
	cmd.Env = proxied()
	// What it mounts is seen by it alone, so that none of it is left, whatever happens. Its children die with it. The
	// terminal's signals are for this program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	read := make(chan struct{})
	go func() {
		defer close(read)
		last := time.Now()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			fmt.Fprintln(log, lines.Text())
			if time.Since(last) > 10*time.Second {
				b.say(strings.TrimPrefix(lines.Text(), "I: "))
				last = time.Now()
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	runtime.LockOSThread() // the thread that starts it must not end before it
	err = cmd.Run()
	runtime.UnlockOSThread()
	w.Close()
	<-read
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: `make deps-hosts` installs it", err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w (%s):\n%s", args[0], err, b.log, tail(b.log))
	}
	return nil
}

// tail is the last 2 KiB of a file.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2<<10):])
}

// copyOne copies the one file that a pattern matches.
func copyOne(pattern, to string) error {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return fmt.Errorf("no file %s in the image: %w", pattern, err)
	}
	b, err := os.ReadFile(slices.Max(found))
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

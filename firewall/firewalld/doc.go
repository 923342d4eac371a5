// Package firewalld has firewalld let the mesh's packets pass.
//
// In: the devices by which containers and published ports come and go. Out:
// firewalld's configuration, over D-Bus. Nothing is done where firewalld does
// not run, and what it is told is told again when it starts later or reloads.
//
// firewalld rejects what comes in or is passed on by a device that is in no zone
// which accepts it; it comes after the rules of iptables and of the data planes,
// and nothing of theirs ends it. The engine keeps the bridges of its networks in
// a zone of its own, docker, whose target is ACCEPT; but only those of engines
// that found firewalld running when they started. So the devices are put into
// the same zone, as the engine would put them: in the runtime configuration. A
// device that somebody has put into any other zone is left there.
//
// The zone's target says what may leave its devices. What is sent to them from
// devices in other zones, as other hosts' containers are by the host's network
// card, needs a policy, and those are part of the permanent configuration alone.
// Engines have one, docker-forwarding, from some version on. Where there is
// none, one called shoal is made, and firewalld reloads, once. The zone is made
// in the same way if the engine has not made it. Neither opens a container to
// the link: the data planes close the mesh, and the engine its other networks.
//
// Tunnels between hosts stay in the zone they are in: what other hosts'
// containers send to this host itself is the business of its firewall.
//
// [Down] takes all of that away, but for the zone: an engine relies on it.
package firewalld

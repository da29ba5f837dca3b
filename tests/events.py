"""Reads TensorBoard's event files as TensorBoard does, without it."""

from pathlib import Path


def read_events(folder: Path) -> dict[tuple[int, str], list[float]]:
    """`{(step, name): values}` of what TensorBoard shows of a run.

    Files are read in the order of their names. A session that starts at a step hides what is there from that step on; a record
    that a kill cut off ends its file.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[tuple[int, str], list[float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, position = path.read_bytes(), 0
        while position + 16 <= len(content):  # length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(content[position : position + 8], "little")
            if position + 16 + length > len(content):
                break
            event = Event.FromString(content[position + 12 : position + 12 + length])
            if event.session_log.status == SessionLog.START:
                found = {key: values for key, values in found.items() if key[0] < event.step}
            for value in event.summary.value:
                found.setdefault((event.step, value.tag), []).append(value.simple_value)
            position += 16 + length
    return found

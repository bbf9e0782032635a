"""A folder that plays the Hugging Face hub: the calls of its client that indexes are shared by."""

import fnmatch
import shutil
from pathlib import Path
from types import SimpleNamespace


class HubFolder:
    """One repository, `owner/name`; every commit is a folder of its own."""

    def __init__(self, root: Path):
        self.root, self.private, self.calls = root, None, []
        self.broken = None

    @property
    def commits(self):
        return sorted(path.name for path in self.root.glob("commit-*"))

    def files(self, commit=None):
        if not self.commits:
            return {}
        folder = self.root / (commit or self.commits[-1])
        if not folder.is_dir():
            raise LookupError(f"404 Client Error.\n\nRevision Not Found for {commit}.")
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        return {name: folder / name for name in names}

    def put(self, files, message="m"):
        """A commit of exactly these files, name -> bytes."""
        folder = self.root / f"commit-{len(self.commits)}"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        assert (repo_type, exist_ok) == ("dataset", True)
        if self.private is None:
            self.private = private
        return f"https://hub/datasets/{repo_id}"

    def repo_info(self, repo_id, *, revision=None, repo_type):
        assert repo_type == "dataset"
        if self.private is None:
            raise LookupError("404 Client Error.\n\nRepository Not Found for url: x.\nlog in")
        self.files(revision)
        sha = revision or (self.commits[-1] if self.commits else None)
        return SimpleNamespace(private=self.private, sha=sha)

    def list_repo_files(self, repo_id, *, revision=None, repo_type):
        return sorted(self.files(revision))

    def preupload_lfs_files(self, repo_id, additions, *, repo_type):
        for each in additions:
            self.calls.append(each.path_in_repo)
            if each.path_in_repo == self.broken:
                raise ConnectionError("the line went dead")

    def create_commit(self, repo_id, operations, *, commit_message, repo_type):
        files = {name: path.read_bytes() for name, path in self.files().items()}
        for each in operations:
            if hasattr(each, "path_or_fileobj"):
                content = each.path_or_fileobj
                data = content if isinstance(content, bytes) else Path(content).read_bytes()
                files[each.path_in_repo] = data
            else:
                del files[each.path_in_repo]
        self.put(files)

    def hf_hub_download(self, repo_id, filename, *, repo_type, revision, local_dir):
        self._copy(filename, revision, local_dir)

    def snapshot_download(self, repo_id, *, repo_type, revision, local_dir, allow_patterns):
        for name in self.files(revision):
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                if name == self.broken:
                    raise ConnectionError("the line went dead")
                self._copy(name, revision, local_dir)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        (local_dir / ".cache" / "huggingface" / "x.metadata").write_text("1")

    def _copy(self, name, revision, local_dir):
        self.calls.append(name)
        (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.files(revision)[name], local_dir / name)

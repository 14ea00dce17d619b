"""Imports go one way: a file uses only what stands above it in this list."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ORDER = """
evssm.shapes evssm.geometry evssm.heap evssm.precision
evssm.compiled evssm.lanes evssm.lane_functions evssm.kernel_tasks evssm.map_memory
evssm.scan_definition evssm.scan_torch evssm.scan_numba evssm.scan_triton evssm.scan_mamba_ssm evssm.scan_choice
evssm.scan evssm.mamba_ssm evssm.ssd
evssm.fused_linear evssm.fused_ends evssm.fused_depthwise evssm.fused_norm evssm.fused_patches
evssm.fused_selection
evssm.enlarge_numba evssm.fused evssm.enlarge evssm.layers evssm.tf_layers evssm.scan_selected
evssm.spectral evssm.windows
evssm.mixer evssm.mamba2
evssm.models.stages evssm.models.description evssm.naming
evssm.models.evssm evssm.models.nafnet evssm.models.mimo_unet
evssm.models.restormer evssm.models.fftformer evssm.models.stripformer
evssm.models.deblurgan evssm.models.ifan evssm.models.dpdnet evssm.models.srn evssm.models.kpac evssm.models
evssm.arrays evssm.provenance evssm.stamp evssm.bootstrap evssm.sidecar evssm.weights evssm.hooks
evssm.images evssm.photographs evssm.foreign evssm.sources evssm.metrics
evssm.ensemble evssm.tiles evssm.memory evssm.inference evssm.align evssm.cautions evssm.ledger
evssm
evssm.data evssm.data.pairs evssm.data.kernels evssm.data.dead_leaves evssm.data.light evssm.data.shake
evssm.data.embedded evssm.data.video evssm.data.defocus evssm.data.motorcycle evssm.data.preview
evssm.data.pictures evssm.data.lmdb evssm.data.published evssm.data.layouts evssm.data.recognise evssm.data.contents
evssm.data.listing evssm.data.sets evssm.data.folders evssm.data.findings evssm.data.name_checks
evssm.data.image_checks evssm.data.brightness evssm.data.overlap_checks evssm.data.verify
evssm.blur_maps evssm.deconvolution
evssm.scores evssm.evaluate evssm.deblur
evssm.loss evssm.machine
evssm.training evssm.training.recipes evssm.training.optimisation evssm.training.crops evssm.training.checkpoint
evssm.training.journal evssm.training.loop evssm.training.family evssm.training.run evssm.training.rerun
analysis.archive analysis.inputs analysis.queries analysis.borrow analysis.sensitivity analysis.making
analysis.field_statistics analysis.field analysis.verdicts analysis.field_table analysis.erf
analysis.kept
analysis.orders analysis.deletion analysis.order_check
analysis.similarity analysis.cascade analysis.randomisation analysis.image_count
analysis.summary analysis.plots analysis.panels
analysis.operations analysis.costs analysis.timing analysis.tasks analysis.ablations
analysis.ablation_table analysis.ablation_panel analysis.ablate analysis.trained_family analysis.findings
analysis.scan_rows analysis.scan_tangents analysis.own_scans analysis.scan_branches analysis.module_rows
analysis.module_columns analysis.row_map
analysis.activations analysis.row_faithfulness analysis.map_verdict
analysis.check_plots analysis.check_panels
analysis.kept_rows analysis.activation_plots analysis.activation_figure
analysis.regions analysis.lam analysis.attribution analysis.attributions
analysis.questions analysis.engines analysis.fan_out
analysis.layer_attributions analysis.attribution_verdict analysis.attribution_figure analysis.layer_figure
analysis.attribution_table analysis.view_shift
analysis.comparison analysis.comparison_figure
analysis.scan_health analysis.artefacts analysis.artefact_figure
analysis.instance_norms analysis.growth analysis.knock_outs analysis.half_planes analysis.knock_out_table analysis.modes
analysis.planted_faults analysis.planted_faults_figure
analysis.horizons analysis.selection_share analysis.alignment analysis.transfer analysis.structural
analysis.sequential analysis.interventions
analysis.measure_frame analysis.measure_plots analysis.measure_panels analysis.measure_maps analysis.measures
analysis.jobs analysis.recent analysis.explorer_choices analysis.explorer analysis.explorer_page analysis.explorer_view
analysis
evssm.cli.app evssm.cli.common evssm.cli.options evssm.cli.ablate evssm.cli.activation evssm.cli.attribute
evssm.cli.cost evssm.cli.data evssm.cli.deblur evssm.cli.erf
evssm.cli.evaluate evssm.cli.family evssm.cli.figures evssm.cli.layers evssm.cli.measure evssm.cli.networks
evssm.cli.trace evssm.cli.train
evssm.cli.page
evssm.cli.explore
evssm.cli evssm.__main__
""".split()
FILES = sorted([*ROOT.glob("evssm/**/*.py"), *ROOT.glob("analysis/**/*.py")])


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str) -> set[str]:
    """The names of our own modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            members = {f"{node.module}.{name.name}" for name in node.names}
            found |= members & set(ORDER) or {node.module}  # a file of the package, or a name in it
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name in ORDER}


def test_every_file_has_its_place():
    assert {module_name(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_uses_only_what_stands_above_it(path):
    name = module_name(path)
    above = ORDER[: ORDER.index(name)]
    assert imported(path.read_text()) <= {*above, "evssm"}, f"{name} may use only what stands above it"


def test_the_reader_of_imports_sees_them_all():
    assert imported("import evssm.scan\nif x:\n    from evssm.models import evssm\n") == {
        *("evssm.scan", "evssm.models.evssm"),
    }
